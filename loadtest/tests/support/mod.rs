//! What several tests need.

use std::{path::Path, process::Command, sync::OnceLock};

/// The `fanfare` binary: what `LOADTEST_FANFARE` names, or the one beside the harness, which is built if it is not there.
pub(crate) fn fanfare() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("LOADTEST_FANFARE") {
            return path.into_string().expect("a path in UTF-8");
        }
        let harness = Path::new(env!("CARGO_BIN_EXE_fanfare-loadtest"));
        let path = harness.with_file_name("fanfare");
        if !path.exists() {
            let profile = harness.parent().expect("a profile's directory");
            let target = profile.parent().expect("a target directory");
            let release = profile.ends_with("release").then_some("--release");
            let built = Command::new(env!("CARGO"))
                .current_dir(
                    Path::new(env!("CARGO_MANIFEST_DIR"))
                        .parent()
                        .expect("the workspace"),
                )
                .args([
                    "build",
                    "--locked",
                    "-p",
                    "fanfare",
                    "--bin",
                    "fanfare",
                    "--target-dir",
                ])
                .arg(target)
                .args(release)
                .status()
                .expect("cargo runs");
            assert!(
                built.success() && path.exists(),
                "fanfare was not built at {}",
                path.display()
            );
        }
        path.into_os_string()
            .into_string()
            .expect("a path in UTF-8")
    })
}
