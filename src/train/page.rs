//! A training told on one page: HTML that needs no other file and no script.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use super::metrics::Confusion;
use super::report::escaped;
use crate::error::Error;
use crate::formats::write_whole;

/// A page that grows downwards.
#[derive(Clone, Debug)]
pub struct Page {
    body: String,
}

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}pre{background:#f6f6f6;padding:1em;overflow-x:auto;line-height:1.3}\
svg{max-width:100%;height:auto}table{border-collapse:collapse}td,th{padding:.25em .6em;text-align:right}th{font-weight:normal;color:#777}";

impl Page {
    /// An empty page under a title.
    pub fn new(title: &str) -> Page {
        let title = escaped(title);
        let head = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style>"
        );
        Page {
            body: format!("{head}<h1>{title}</h1>\n"),
        }
    }

    /// Begins a section.
    pub fn section(&mut self, heading: &str) {
        let _ = writeln!(self.body, "<h2>{}</h2>", escaped(heading));
    }

    /// A paragraph.
    pub fn text(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p>{}</p>", escaped(text));
    }

    /// Text whose columns and lines matter.
    pub fn lines(&mut self, text: &str) {
        let _ = writeln!(self.body, "<pre>{}</pre>", escaped(text));
    }

    /// An SVG file, taken into the page.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn picture(&mut self, path: &Path) -> Result<(), Error> {
        let svg = std::fs::read_to_string(path).map_err(|reason| Error::file(path, reason))?;
        let _ = writeln!(self.body, "{}", svg.trim());
        Ok(())
    }

    /// A table of true classes, a row each, and answers; the fuller a field, the darker.
    pub fn confusion(&mut self, confusion: &Confusion) {
        let header: String = (0..confusion.counts().len())
            .map(|class| format!("<th>{class}</th>"))
            .collect();
        let _ = write!(self.body, "<table><tr><th></th>{header}</tr>");
        for (class, row) in confusion.counts().iter().enumerate() {
            let sum = row.iter().sum::<usize>().max(1) as f64;
            let _ = write!(self.body, "<tr><th>{class}</th>");
            for (answer, &count) in row.iter().enumerate() {
                let colour = if answer == class { "60,150,80" } else { "220,40,40" };
                let share = (count as f64 / sum).sqrt() * 0.8;
                let _ = write!(
                    self.body,
                    "<td style=\"background:rgba({colour},{share:.2})\">{count}</td>"
                );
            }
            self.body.push_str("</tr>");
        }
        self.body.push_str("</table>\n");
    }

    /// Writes the page.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        write_whole(path, |file| file.write_all(self.body.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_all_they_show() {
        let folder = tempfile::tempdir().unwrap();
        let svg = folder.path().join("a.svg");
        std::fs::write(&svg, "<svg id=\"a\"></svg>").unwrap();
        let mut page = Page::new("a < b");
        page.section("Pictures");
        page.lines("x & y");
        page.picture(&svg).unwrap();
        page.confusion(&Confusion::new(2, &[0, 0, 1], &[0, 1, 1]));
        page.save(&folder.path().join("page.html")).unwrap();
        let text = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
        for part in [
            "<title>a &lt; b</title>",
            "<pre>x &amp; y</pre>",
            "<svg id=\"a\">",
            "rgba(60,150,80,0.80)\">1</td>",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(page.picture(&folder.path().join("none.svg")).is_err());
    }
}
