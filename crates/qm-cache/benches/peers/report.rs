//! The results: as text, as JSON, and as a plot.

use std::fmt::Write as _;
use std::path::Path;

#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<String>,
    bars: Vec<(String, f64, bool)>,
}

impl Report {
    /// One size: a row for each contender. The first are ours.
    pub(crate) fn table(
        &mut self,
        size: &str,
        names: &[String],
        unique: &[f64],
        duplicate: &[f64],
        forgotten: &[usize],
    ) {
        let mutex = |times: &[f64]| {
            let at = names
                .iter()
                .position(|name| name.starts_with("parking_lot"));
            at.map_or(f64::NAN, |at| times[at])
        };
        println!(
            "\n| {size}, full | new key ns | mutex / this | known key ns | mutex / this | of the newest {size} forgotten |"
        );
        println!("|---|---|---|---|---|---|");
        for (at, name) in names.iter().enumerate() {
            let (new, known) = (unique[at], duplicate[at]);
            let (by_new, by_known) = (mutex(unique) / new, mutex(duplicate) / known);
            println!(
                "| {name} | {new:.1} | {by_new:.2} | {known:.1} | {by_known:.2} | {} |",
                forgotten[at]
            );
            self.rows.push(format!(
                "{{\"size\":\"{size}\",\"name\":\"{name}\",\"new_key_ns\":{new:.1},\
                 \"known_key_ns\":{known:.1},\"forgotten\":{}}}",
                forgotten[at]
            ));
            self.bars
                .push((format!("{size} {name}"), new, name.starts_with("qm-cache")));
        }
        println!();
    }

    pub(crate) fn number(&mut self, name: &str, unit: &str, value: f64) {
        println!("{name}: {value:.2} {unit}");
        self.rows.push(format!(
            "{{\"name\":\"{name}\",\"value\":{value:.2},\"unit\":\"{unit}\"}}"
        ));
    }

    /// Writes the files.
    pub(crate) fn finish(&self) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let json = format!("[\n{}\n]\n", self.rows.join(",\n"));
        for (name, contents) in [
            ("qm-cache-peers.json", json),
            ("qm-cache-peers.svg", self.plot()),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, contents).expect("the folder of the build is writable");
            println!("{}", path.display());
        }
    }

    /// Bars of the time for a new key, on a logarithmic scale.
    fn plot(&self) -> String {
        let height = self.bars.len() * 18 + 30;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <text x=\"8\" y=\"16\">ns of processor time for a new key, cache full (log scale)</text>\n"
        );
        for (at, (name, time, ours)) in self.bars.iter().enumerate() {
            let y = at * 18 + 28;
            let width = (time.max(10.0) / 10.0).log10() * 180.0 + 2.0;
            let colour = if *ours { "#2b6cb0" } else { "#a0aec0" };
            writeln!(
                svg,
                "<text x=\"8\" y=\"{}\">{name}</text>\
                 <rect x=\"330\" y=\"{y}\" width=\"{width:.0}\" height=\"14\" fill=\"{colour}\"/>\
                 <text x=\"{:.0}\" y=\"{}\">{time:.0}</text>",
                y + 12,
                width + 336.0,
                y + 12
            )
            .expect("a string takes everything");
        }
        svg + "</svg>\n"
    }
}
