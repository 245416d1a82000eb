//! What goes to standard output: lines, aligned tables for people, JSON for programs.

use std::{
    fmt,
    io::{self, Write as _},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use leasehold::{AgentName, Client, Mode};
use serde_json::Value;

use crate::{args::ConnectArgs, exit::Failed, secure};

/// Who only asks doesn't wait for long.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// A client under this name, for who asks; the agents' addresses are looked through for a short while.
pub(crate) async fn connect(args: &ConnectArgs, name: Option<&str>) -> Result<Client, Failed> {
    Ok(secure::client(args, name)?.connect_within(CONNECT_WITHIN).connect().await?)
}

/// `host/pid`, unless the host's name can't be part of an agent's.
pub(crate) fn own_name() -> String {
    let pid = std::process::id();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = format!("{host}/{pid}");
    AgentName::new(&name).map_or_else(|_| format!("leasehold/{pid}"), |name| name.as_str().to_owned())
}

/// Prints a line. That nobody reads any more (`| head`) is no error.
pub(crate) fn line(text: &str) -> Result<(), Failed> {
    said(try_line(text))
}

/// Prints a line, at once, for who goes on only while somebody reads.
pub(crate) fn try_line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}

/// Prints bytes that are a file.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    said(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Half of an answer must not look like a whole one.
fn said(written: io::Result<()>) -> Result<(), Failed> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failed::new(format!(
            "the answer can't be written to standard output: {error}; free the cause, and ask again"
        ))),
        _ => Ok(()),
    }
}

/// Whether to colour what goes there: on a terminal, unless NO_COLOR is set.
pub(crate) fn colour(stream: &impl io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// For people.
pub(crate) fn time(time: DateTime<Utc>) -> impl fmt::Display {
    time.format("%Y-%m-%dT%H:%M:%SZ")
}

/// For programs.
pub(crate) fn time_ms(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// For programs; as numbers of JSON are read, exact for longer than anybody lives.
pub(crate) fn in_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A mode in two fields: its name, and how many permits there are.
pub(crate) fn mode(mode: Mode) -> (&'static str, Value) {
    match mode {
        Mode::Exclusive => ("exclusive", Value::Null),
        Mode::Shared => ("shared", Value::Null),
        Mode::Permits { of } => ("permits", of.into()),
        _ => ("other", Value::Null),
    }
}

/// Rows under a head, with columns as wide as they need to be.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// Appends a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints it.
    pub(crate) fn print(&self) -> Result<(), Failed> {
        let bold = colour(&io::stdout());
        for (at, text) in self.lines().iter().enumerate() {
            line(&if at == 0 && bold { format!("\x1b[1m{text}\x1b[0m") } else { text.clone() })?;
        }
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell: &String| cell.chars().count()).max()
        };
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let aligned = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(aligned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "TOKEN"]);
        table.row(["größer".to_owned(), "1".to_owned()]);
        table.row(["x".to_owned(), "22".to_owned()]);
        assert_eq!(table.lines(), ["NAME    TOKEN", "größer  1", "x       22"]);
    }
}
