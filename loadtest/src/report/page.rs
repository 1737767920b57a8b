//! Findings as one page that needs nothing but itself.

use std::fmt::{Arguments, Write};

use super::{Findings, curves::curves};
use crate::error::Result;

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub(crate) fn page(findings: &Findings) -> Result<String> {
    let title = format!("{} · {}", findings.scenario, findings.machine.date);
    let mut page = String::new();
    add(
        &mut page,
        format_args!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{}</title>\n<style>\n{STYLE}</style>\n<main>\n",
            escaped(&title)
        ),
    );
    head(&mut page, findings);
    figures(&mut page, findings);
    for curves in curves(&findings.measurements) {
        if let Some(svg) = curves.plot.svg()? {
            let (title, note) = (escaped(&curves.title), escaped(curves.note));
            add(
                &mut page,
                format_args!("<h2>{title}</h2>\n<p class=\"note\">{note}</p>\n<p class=\"key\">"),
            );
            for (name, color) in curves.plot.names() {
                let name = escaped(name);
                add(
                    &mut page,
                    format_args!("<span style=\"border-color: {color}\">{name}</span>\n"),
                );
            }
            add(&mut page, format_args!("</p>\n{svg}\n"));
        }
    }
    page.push_str("</main>\n</html>\n");
    Ok(page)
}

fn head(page: &mut String, findings: &Findings) {
    let machine = &findings.machine;
    let mut rows = vec![
        ("date", machine.date.clone()),
        (
            "processor",
            format!("{}, {} cores", machine.cpu, machine.cores),
        ),
        ("kernel", machine.kernel.clone()),
        ("measured", findings.measured.clone()),
    ];
    rows.extend(
        findings
            .settings
            .iter()
            .map(|(name, value)| (*name, value.clone())),
    );
    add(
        page,
        format_args!("<h1>{}</h1>\n", escaped(findings.scenario)),
    );
    add(
        page,
        format_args!(
            "<pre>{}</pre>\n<table class=\"settings\">\n",
            escaped(&findings.command.join(" "))
        ),
    );
    for (name, value) in rows {
        add(
            page,
            format_args!("<tr><th>{}<td>{}\n", escaped(name), escaped(&value)),
        );
    }
    let class = if findings.is_clean() {
        "clean"
    } else {
        "faulty"
    };
    let faults = escaped(&findings.faults.to_string());
    add(
        page,
        format_args!("</table>\n<p class=\"{class}\">faults: {faults}</p>\n"),
    );
}

fn figures(page: &mut String, findings: &Findings) {
    page.push_str(
        "<table class=\"figures\">\n<tr><th>figure<th>median<th><th>least<th>most<th>in turn\n",
    );
    for figure in &findings.figures {
        let (least, most) = figure.range();
        let all: Vec<String> = figure
            .values
            .iter()
            .map(|&value| figure.text(value))
            .collect();
        add(
            page,
            format_args!(
                "<tr><th>{}<td><b>{}</b><td>{}<td>{}<td>{}<td>{}\n",
                escaped(&figure.name),
                figure.text(figure.median),
                escaped(figure.unit),
                figure.text(least),
                figure.text(most),
                all.join(" ")
            ),
        );
    }
    page.push_str("</table>\n");
}

fn add(page: &mut String, text: Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = page.write_fmt(text);
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Common;

    #[test]
    fn what_the_test_was_run_with_cannot_break_the_page() {
        let mut findings = Findings::new(
            "test",
            &Common::for_tests(),
            vec![("filter", "a < \"b\" && c".to_owned())],
        );
        findings.add("<b>", "ms", 1.5);
        let page = page(&findings).unwrap();
        assert!(page.contains("a &lt; &quot;b&quot; &amp;&amp; c"), "{page}");
        assert!(page.contains("<th>&lt;b&gt;<td><b>1.50</b>"), "{page}");
        assert!(
            !["<script", "<link", "src=", "url(", "@import"]
                .iter()
                .any(|from| page.contains(from))
        );
    }
}
