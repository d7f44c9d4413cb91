//! Pages in a browser without a screen.

use std::path::Path;
use std::process::Command;

/// The page at an address after its scripts have run, as the browser would write it; nothing if there is no browser. Its profile goes to a folder.
pub fn opened(address: &str, folder: &Path) -> Option<String> {
    let browser = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|browser| Command::new(browser).arg("--version").output().is_ok());
    let Some(browser) = browser else {
        assert!(
            std::env::var_os("CI").is_none(),
            "the page cannot be tested without chromium"
        );
        eprintln!("skipped: the page is not opened, as chromium cannot be run");
        return None;
    };
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=1400,900",
            "--dump-dom",
        ])
        // No time passes on the page while it waits for an answer, and nobody else is asked.
        .args([
            "--virtual-time-budget=20000",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(address)
        .output()
        .expect("the browser runs");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
