//! What the README says of other servers is what the harness prints of a run that is kept in the repository.

use std::{fs, path::Path, process::Command};

const BEGIN: &str = "<!-- comparison: ";
const END: &str = "<!-- end of comparison -->";

/// The folder that a text names, and what stands between its markers; `None` if it has none.
fn marked(text: &str) -> Option<(&str, &str)> {
    let (folder, rest) = text
        .split_once(BEGIN)?
        .1
        .split_once(" -->\n")
        .expect("a marker ends with -->");
    let (between, _) = rest
        .split_once(END)
        .expect("a comparison ends with its marker");
    Some((folder, between))
}

#[test]
fn the_readme_has_the_table_that_the_harness_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let readme = fs::read_to_string(root.join("README.md")).expect("a README");
    let Some((folder, between)) = marked(&readme) else {
        return;
    };
    let output = Command::new(env!("CARGO_BIN_EXE_fanfare-loadtest"))
        .current_dir(root)
        .args(["summarize", folder, "--headline"])
        .output()
        .expect("the harness runs");
    let table = String::from_utf8(output.stdout).expect("text");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        between, table,
        "README.md: put in what `fanfare-loadtest summarize {folder} --headline` prints"
    );
}

#[test]
fn markers_name_a_folder_and_have_a_text_between_them() {
    let text =
        "a\n<!-- comparison: loadtest/runs/x -->\n| b |\n\nc\n<!-- end of comparison -->\nd\n";
    assert_eq!(marked(text), Some(("loadtest/runs/x", "| b |\n\nc\n")));
    assert_eq!(marked("nothing"), None);
}
