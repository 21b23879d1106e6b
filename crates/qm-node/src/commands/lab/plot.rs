//! Times on a logarithmic scale: bars for terminals, curves for documents.

/// A bar of a plot on a terminal.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) us: u64,
    pub(super) text: String,
}

/// Times over numbers of clones.
pub(super) struct Curve {
    /// Title of the panel to which it belongs.
    pub(super) panel: &'static str,
    pub(super) name: String,
    pub(super) points: Vec<(u16, u64)>,
}

/// Powers of ten of a time over the smallest one shown, a millisecond.
fn decades(us: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a place in a drawing")]
    let ms = us as f64 / 1_000.0;
    ms.max(1.0).log10()
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// Bars, eight characters for each power of ten.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    let width = bars.iter().map(|bar| bar.name.chars().count()).max();
    let mut text = format!("\n{title}; eight characters are a factor of ten, from 1 ms\n");
    for bar in bars {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small number that is not negative"
        )]
        let length = (decades(bar.us) * 8.0).round() as usize;
        let pad = " ".repeat(width.unwrap_or(0) - bar.name.chars().count());
        line(
            &mut text,
            &format!("{}{pad} {} {}", bar.name, "█".repeat(length), bar.text),
        );
    }
    text
}

const PANEL: (f64, f64) = (330.0, 300.0);
const LEFT: f64 = 70.0;
const TOP: f64 = 60.0;
const GAP: f64 = 70.0;
/// Colours that people with any sight of colours tell apart (Okabe and Ito, 2008).
const COLOURS: [&str; 7] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#000000",
];
const TICKS: [(&str, u64); 8] = [
    ("1 ms", 1_000),
    ("10 ms", 10_000),
    ("100 ms", 100_000),
    ("1 s", 1_000_000),
    ("10 s", 10_000_000),
    ("100 s", 100_000_000),
    ("1000 s", 1_000_000_000),
    ("10⁴ s", 10_000_000_000),
];

/// A drawing with a panel for each policy.
pub(super) fn svg(curves: &[Curve], lifetime_ms: u64) -> String {
    let mut panels: Vec<&str> = curves.iter().map(|curve| curve.panel).collect();
    panels.dedup();
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let count = panels.len().max(1) as f64;
    let (width, height) = (LEFT + count * (PANEL.0 + GAP) + 10.0, TOP + PANEL.1 + 60.0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">Mean time in the outgoing queue of clones \
         that share one identity</text>\n"
    );
    let mut left = LEFT;
    for panel in panels {
        let of_panel: Vec<&Curve> = curves.iter().filter(|c| c.panel == panel).collect();
        draw_panel(&mut text, left, panel, &of_panel, lifetime_ms);
        left += PANEL.0 + GAP;
    }
    text.push_str("</svg>\n");
    text
}

fn height_of(us: u64) -> f64 {
    TOP + PANEL.1 * (1.0 - decades(us).min(7.0) / 7.0)
}

fn draw_panel(text: &mut String, left: f64, title: &str, curves: &[&Curve], lifetime_ms: u64) {
    let right = left + PANEL.0;
    line(
        text,
        &format!("<text x=\"{left}\" y=\"{}\">{title}</text>", TOP - 12.0),
    );
    for (label, us) in TICKS {
        let y = height_of(us);
        line(
            text,
            &format!(
                "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#dddddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                left - 6.0,
                y + 4.0
            ),
        );
    }
    let y = height_of(lifetime_ms.saturating_mul(1_000));
    line(
        text,
        &format!(
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#888888\" stroke-dasharray=\"4 3\"/>\
         <text x=\"{}\" y=\"{:.1}\" fill=\"#666666\">lifetime of a row</text>",
            left + 4.0,
            y - 4.0
        ),
    );
    let mut clones: Vec<u16> = curves
        .iter()
        .flat_map(|curve| curve.points.iter().map(|(clones, _)| *clones))
        .collect();
    clones.sort_unstable();
    clones.dedup();
    let place = |wanted: u16| {
        let at = clones.iter().position(|n| *n == wanted).unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "a few")]
        let share = (at as f64 + 0.5) / clones.len().max(1) as f64;
        left + (PANEL.0 - 45.0) * share
    };
    for n in &clones {
        line(
            text,
            &format!(
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{n}</text>",
                place(*n),
                TOP + PANEL.1 + 18.0
            ),
        );
    }
    line(
        text,
        &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">clones</text>",
            left + PANEL.0 / 2.0,
            TOP + PANEL.1 + 38.0
        ),
    );
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<String> = curve
            .points
            .iter()
            .map(|(n, us)| format!("{:.1},{:.1}", place(*n), height_of(*us)))
            .collect();
        line(
            text,
            &format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                points.join(" ")
            ),
        );
        for (n, us) in &curve.points {
            line(
                text,
                &format!(
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                    place(*n),
                    height_of(*us)
                ),
            );
        }
    }
    // Names where there is room: beside the panel's right edge, in the order of the curves' ends.
    let mut ends: Vec<(f64, &str, &str)> = curves
        .iter()
        .zip(COLOURS.iter().cycle())
        .filter_map(|(curve, colour)| {
            let (_, us) = curve.points.last()?;
            Some((height_of(*us), curve.name.as_str(), *colour))
        })
        .collect();
    ends.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut free = f64::INFINITY;
    for (y, name, colour) in ends {
        let y = y.min(free);
        free = y - 14.0;
        line(
            text,
            &format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
                right - 48.0,
                y + 4.0
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_curves_grow_with_the_logarithm() {
        let bar = |name: &str, us| Bar {
            name: name.to_owned(),
            us,
            text: String::new(),
        };
        let text = bars("title", &[bar("a", 1_000), bar("bb", 100_000)]);
        let lengths: Vec<usize> = text
            .lines()
            .skip(2)
            .map(|line| line.matches('█').count())
            .collect();
        assert_eq!(lengths, [0, 16]);
        assert!(height_of(1_000) > height_of(10_000));
        let curve = Curve {
            panel: "qm",
            name: "1/s".to_owned(),
            points: vec![(1, 10_000), (2, 20_000)],
        };
        let drawing = svg(&[curve], 30_000);
        assert_eq!(drawing.matches("<circle").count(), 2);
        assert!(drawing.starts_with("<svg") && drawing.ends_with("</svg>\n"));
    }
}
