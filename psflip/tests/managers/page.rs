//! `docs/managers.md` shows the scripts that the tests run.

use std::fs;
use std::path::Path;

use crate::rig::examples;

#[test]
fn the_page_shows_every_script_exactly_as_tested() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/managers.md");
    let page = fs::read_to_string(page).unwrap();
    let mut scripts = 0;
    for folder in fs::read_dir(examples()).unwrap().map(Result::unwrap) {
        for script in fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
            let text = fs::read_to_string(script.path()).unwrap();
            assert!(
                page.contains(&format!("\n{text}```\n")),
                "{} is not on the page",
                script.path().display()
            );
            scripts += 1;
        }
    }
    assert_eq!(scripts, 5);
}
