//! Differences of graphs as one HTML page: before on the left, after on the right.

use netloom_ir::diff::{Diff, Line};

use super::{escaped, fill};

const PAGE: &str = include_str!("diff.html");

/// A page of several differences, each under its own heading.
pub fn html(title: &str, sections: &[(String, Diff<'_>)]) -> String {
    let body: String = sections.iter().map(|(heading, diff)| section(heading, diff)).collect();
    fill(
        PAGE,
        &[
            ("{{title}}", &escaped(title)),
            ("{{heading}}", &escaped(title)),
            ("{{sections}}", &body),
        ],
    )
}

fn section(heading: &str, diff: &Diff<'_>) -> String {
    let [same, changed, gone, new] = diff.counts();
    let mut text = format!(
        "<section><h2>{}</h2><p>{same} the same, {changed} changed, {gone} gone, {new} new</p><table>\n",
        escaped(heading)
    );
    let mut rows = diff.lines.iter().peekable();
    while let Some(line) = rows.next() {
        match line {
            Line::Same(old, _) => {
                let mut lines = vec![diff.old_text(*old)];
                while let Some(Line::Same(old, _)) = rows.next_if(|line| matches!(line, Line::Same(..))) {
                    lines.push(diff.old_text(*old));
                }
                let inside: String = lines.iter().map(|line| escaped(line) + "\n").collect();
                text += &format!(
                    "<tr class=\"same\"><td colspan=\"2\"><details><summary>{} the same</summary><pre>{inside}</pre></details></td></tr>\n",
                    lines.len()
                );
            }
            Line::Changed(old, new) => text += &row(Some(&diff.old_text(*old)), Some(&diff.new_text(*new))),
            Line::Gone(old) => text += &row(Some(&diff.old_text(*old)), None),
            Line::New(new) => text += &row(None, Some(&diff.new_text(*new))),
        }
    }
    for &output in &diff.outputs {
        let [old, new] = diff.output(output);
        text += &row(old.as_deref(), new.as_deref());
    }
    text + "</table></section>\n"
}

fn row(old: Option<&str>, new: Option<&str>) -> String {
    let cell = |text: Option<&str>, class: &str| match text {
        Some(text) => format!("<td class=\"{class}\">{}</td>", escaped(text)),
        None => "<td></td>".to_owned(),
    };
    format!("<tr>{}{}</tr>\n", cell(old, "gone"), cell(new, "new"))
}
