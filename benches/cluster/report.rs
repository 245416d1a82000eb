//! What was measured, beside what was to be reached.

use std::time::Duration;

/// Samples of one quantity.
#[derive(Default, Clone)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn add_ms(&mut self, span: Duration) {
        self.add(span.as_secs_f64() * 1e3);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value below which this share of the samples lies; NaN of none.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = ((sorted.len() as f64 - 1.0) * share).round().max(0.0) as usize;
        sorted.get(at).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn p50(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn p99(&self) -> f64 {
        self.quantile(0.99)
    }

    /// The smallest and the largest.
    pub(crate) fn range(&self) -> (f64, f64) {
        (self.quantile(0.0), self.quantile(1.0))
    }
}

struct Row {
    what: String,
    value: String,
    bar: String,
    verdict: String,
}

/// The table of one run.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    missed: usize,
}

impl Report {
    /// A value without a bar.
    pub(crate) fn note(&mut self, what: &str, value: String) {
        self.push(what, value, String::new(), String::new());
    }

    /// A value that must not exceed its bar.
    pub(crate) fn at_most(&mut self, what: &str, value: String, measured: f64, bar: f64, bar_text: &str) {
        self.judge(what, value, measured <= bar, measured / bar, &format!("≤ {bar_text}"));
    }

    /// A value that must reach its bar.
    pub(crate) fn at_least(&mut self, what: &str, value: String, measured: f64, bar: f64, bar_text: &str) {
        self.judge(what, value, measured >= bar, measured / bar, &format!("≥ {bar_text}"));
    }

    fn judge(&mut self, what: &str, value: String, reached: bool, ratio: f64, bar: &str) {
        self.missed += usize::from(!reached);
        let ratio = if ratio.is_finite() { format!(" {ratio:.2} × bar") } else { String::new() };
        let verdict = format!("{}{ratio}", if reached { "ok  " } else { "MISS" });
        self.push(what, value, bar.to_owned(), verdict);
    }

    /// Also printed at once: a run takes minutes.
    fn push(&mut self, what: &str, value: String, bar: String, verdict: String) {
        eprintln!("  {what}: {value} {verdict}");
        self.rows.push(Row { what: what.to_owned(), value, bar, verdict });
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let head = ["what", "value", "bar", "reached?"].map(str::to_owned);
        let rows = self.rows.iter().map(|r| [&r.what, &r.value, &r.bar, &r.verdict].map(String::clone));
        let rows: Vec<[String; 4]> = std::iter::once(head).chain(rows).collect();
        let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2), width(3)];
        println!();
        for (number, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!(" {cell:width$} "));
            println!("|{}|", cells.collect::<Vec<_>>().join("|"));
            if number == 0 {
                println!("|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"));
            }
        }
        println!("\n{} bar(s) missed in this run.", self.missed);
    }
}
