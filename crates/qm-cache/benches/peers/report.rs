//! The results: as text, as JSON, and as a plot.

use std::fmt::Write as _;
use std::path::Path;

/// What was measured of one contender at one size.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) new_ns: f64,
    /// How many times as long the mutex, papaya and moka take.
    pub(crate) new_by: [Option<f64>; 3],
    pub(crate) known_ns: f64,
    pub(crate) known_by_mutex: Option<f64>,
    pub(crate) forgotten: usize,
    pub(crate) new_instructions: Option<f64>,
    pub(crate) known_instructions: Option<f64>,
}

impl Row {
    fn is_ours(&self) -> bool {
        self.name.starts_with("qm-cache")
    }
}

#[derive(Default)]
pub(crate) struct Report {
    json: Vec<String>,
    bars: Vec<(String, f64, bool)>,
    /// Size and time of our batches.
    batched: Vec<(String, f64)>,
}

impl Report {
    /// One size: a row for each contender.
    pub(crate) fn table(&mut self, size: &str, rows: Vec<Row>) {
        let counted = rows.iter().any(|row| row.new_instructions.is_some());
        print!(
            "\n| {size}, full | new key ns | mutex / this | papaya / this | moka / this \
             | known key ns | mutex / this | forgotten of {size} |"
        );
        println!(
            "{}",
            if counted {
                " instructions: new | known |"
            } else {
                ""
            }
        );
        println!(
            "|---|---|---|---|---|---|---|---|{}",
            if counted { "---|---|" } else { "" }
        );
        let text = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
        };
        let json =
            |value: Option<f64>| value.map_or_else(|| "null".to_owned(), |v| format!("{v:.2}"));
        for row in rows {
            let [mutex, papaya, moka] = row.new_by;
            print!(
                "| {} | {:.1} | {} | {} | {} | {:.1} | {} | {} |",
                row.name,
                row.new_ns,
                text(mutex, 2),
                text(papaya, 2),
                text(moka, 1),
                row.known_ns,
                text(row.known_by_mutex, 2),
                row.forgotten,
            );
            if counted {
                let (new, known) = (row.new_instructions, row.known_instructions);
                print!(" {} | {} |", text(new, 0), text(known, 0));
            }
            println!();
            self.json.push(format!(
                "{{\"size\":\"{size}\",\"name\":\"{}\",\"new_key_ns\":{:.1},\"known_key_ns\":{:.1},\
                 \"new_mutex_ratio\":{},\"new_papaya_ratio\":{},\"new_moka_ratio\":{},\
                 \"known_mutex_ratio\":{},\"forgotten\":{},\"new_instructions\":{},\
                 \"known_instructions\":{}}}",
                row.name,
                row.new_ns,
                row.known_ns,
                json(mutex),
                json(papaya),
                json(moka),
                json(row.known_by_mutex),
                row.forgotten,
                json(row.new_instructions),
                json(row.known_instructions),
            ));
            if row.name.starts_with("qm-cache insert_batch") {
                self.batched.push((size.to_owned(), row.new_ns));
            }
            self.bars
                .push((format!("{size} {}", row.name), row.new_ns, row.is_ours()));
        }
        println!();
    }

    /// Sets our batches of a size beside the limit of that size.
    pub(crate) fn limit(&mut self, size: &str, limit_ns: f64) {
        let batched = self.batched.iter().find(|(of, _)| of == size);
        if let Some(new_ns) = batched.map(|(_, new_ns)| *new_ns) {
            let name = format!("{size}: insert_batch(16) to cold load + two atomics");
            self.number(&name, "x", new_ns / limit_ns);
        }
    }

    pub(crate) fn number(&mut self, name: &str, unit: &str, value: f64) {
        println!("* {name}: {value:.2} {unit}");
        self.json.push(format!(
            "{{\"name\":\"{name}\",\"value\":{value:.2},\"unit\":\"{unit}\"}}"
        ));
    }

    /// Writes the files.
    pub(crate) fn finish(&self) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let json = format!("[\n{}\n]\n", self.json.join(",\n"));
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
