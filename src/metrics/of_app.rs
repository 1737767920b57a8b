//! The numbers of one app alone, out of those of all.

/// What of `text` is of the app `name`: its samples, each with the lines that describe its metric.
pub(super) fn only_of(name: &str, text: &str) -> String {
    let label = format!("app=\"{name}\"");
    let is_of_app = |line: &str| {
        // No other label has a value that callers or clients choose, so this is the label and not a part of one.
        let labels = line.split_once('{').map_or("", |(_, labels)| labels);
        labels.starts_with(&label) || labels.contains(&format!(",{label}"))
    };

    let (mut shown, mut description) = (String::new(), String::new());
    let mut described = false;
    for line in text.split_inclusive('\n') {
        if line.starts_with('#') {
            // A description that follows a sample begins the next metric.
            if described {
                description.clear();
                described = false;
            }
            description.push_str(line);
        } else {
            described = true;
            if is_of_app(line) {
                // It is taken, so that only the first of a metric's samples brings its description.
                shown.push_str(&std::mem::take(&mut description));
                shown.push_str(line);
            }
        }
    }

    shown.push_str("# EOF\n");
    shown
}

#[cfg(test)]
mod tests {
    use crate::metrics::{DropReason, Metrics};

    #[test]
    fn an_app_is_shown_its_own_numbers_and_nothing_else() {
        let metrics = Metrics::new();
        let (a, ab) = (metrics.app("a"), metrics.app("a-b"));
        a.connected.inc_by(3);
        ab.connected.inc_by(5);
        ab.closed(4001);
        a.dropped(DropReason::Slow, 2);
        let text = metrics.render_app("a");

        assert!(
            text.contains("fanfare_connected_total{app=\"a\"} 3\n"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE fanfare_connected counter\n"),
            "{text}"
        );
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let mut count = 0;
        for sample in samples {
            assert!(sample.contains("app=\"a\""), "{sample}");
            count += 1;
        }
        assert!(count > 10, "{text}");
        assert!(
            !text.contains("fanfare_http_request") && !text.contains("4001"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));

        // Every metric is described right before its samples.
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            if let Some(described) = line.strip_prefix("# HELP ") {
                let metric = described.split(' ').next().unwrap();
                assert!(
                    lines[at + 2].starts_with(metric) || lines[at + 3].starts_with(metric),
                    "{line}"
                );
            }
        }
    }
}
