//! Finds the commit that `fanfare --version` names, without running git.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Hexadecimal digits of a commit, as much as is unique.
const DIGITS: usize = 12;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=BUILD_COMMIT");
    let version = env_text("CARGO_PKG_VERSION");

    // Debug builds do not name it, so that a commit does not make cargo build the crate again.
    let about = if env_text("PROFILE") == "debug" {
        Some("debug build".to_owned())
    } else {
        given().or_else(|| Git::find(Path::new(&env_text("CARGO_MANIFEST_DIR")))?.commit())
    };
    let commit = about.as_deref().unwrap_or("unknown");
    println!("cargo::rustc-env=BUILT_FROM={commit}");
    let version = about
        .as_ref()
        .map_or(version.clone(), |about| format!("{version} ({about})"));
    println!("cargo::rustc-env=BUILD_VERSION={version}");
}

/// The commit that the caller names, where the sources have no `.git`, such as in an archive or a container.
fn given() -> Option<String> {
    let commit = env_text("BUILD_COMMIT");
    (!commit.is_empty()).then(|| commit.chars().take(DIGITS).collect())
}

fn env_text(name: &str) -> String {
    let value = env::var_os(name).unwrap_or_default();
    value.to_string_lossy().into_owned()
}

/// The folders of a repository.
struct Git {
    /// Of this work tree: its HEAD.
    own: PathBuf,
    /// Of all its work trees: the branches.
    common: PathBuf,
}

impl Git {
    fn find(root: &Path) -> Option<Self> {
        let git = root.join(".git");

        // In a linked work tree, `.git` is a file that names the folder.
        let own = match fs::read_to_string(&git) {
            Ok(text) => root.join(text.strip_prefix("gitdir:")?.trim()),
            Err(_) => git,
        };
        let common = match fs::read_to_string(own.join("commondir")) {
            Ok(text) => own.join(text.trim()),
            Err(_) => own.clone(),
        };
        Some(Self { own, common })
    }

    fn commit(&self) -> Option<String> {
        let head = watched(&self.own.join("HEAD"))?;
        // Changes with each commit, also where HEAD still names the same branch, and that branch lies in `packed-refs`.
        watched(&self.own.join("logs/HEAD"));

        let id = match head.strip_prefix("ref:") {
            None => head.trim().to_owned(),
            Some(branch) => self.branch(branch.trim())?,
        };
        let whole = id.len() >= DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        whole.then(|| id[..DIGITS].to_owned())
    }

    fn branch(&self, name: &str) -> Option<String> {
        if let Some(id) = watched(&self.common.join(name)) {
            return Some(id.trim().to_owned());
        }
        let packed = watched(&self.common.join("packed-refs"))?;
        packed.lines().find_map(|line| {
            let (id, found) = line.split_once(' ')?;
            (found == name).then(|| id.to_owned())
        })
    }
}

/// Reads a file, and has cargo run this again when it changes. One that is missing would be run again each time.
fn watched(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    println!("cargo::rerun-if-changed={}", path.display());
    Some(text)
}
