//! A picture of a run: one HTML file that needs nothing else, for people.
//!
//! From left to right goes the true time. On top the terms, then a lane for each agent (its lives, and what was done to
//! it), then one for each name (who believed when, by the agent's colour; below, what its protected resource let in and
//! what it refused). What broke a rule is a line through all lanes.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    time::Duration,
};

use super::{check::Violation, history::History, world::PointEffect};

const LABELS: f64 = 90.0;
const WIDTH: f64 = 1_100.0;
const LANE: f64 = 30.0;

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>leasehold chaos</title><style>\
:root{color-scheme:light dark;--ink:#1c2430;--paper:#fff;--lane:#e8ecf1;--dead:#9aa4b2;--bad:#c62828;--dim:#5b6675}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--paper:#12161c;--lane:#242b35;--dead:#566070;--bad:#ff6b6b;--dim:#9aa4b2}}\
body{margin:0;padding:12px;font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper)}\
h1{font-size:1.2em;margin:.2em 0}.scroll{overflow-x:auto}svg{min-width:760px;width:100%;height:auto;display:block}\
text{font:12px system-ui,sans-serif;fill:var(--ink)}.dim{fill:var(--dim)}.bad{color:var(--bad);fill:var(--bad)}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px}code{overflow-wrap:anywhere}</style></head><body>";

const COLOURS: [&str; 9] =
    ["#2f6fde", "#d9822b", "#2e9e5b", "#b34fc5", "#0fa3b1", "#c2410c", "#6d6ad8", "#7a8b00", "#d1477a"];

/// The run as an HTML file; `replay` is the line that runs it again.
#[must_use]
pub fn picture(history: &History, violations: &[Violation], replay: &str) -> String {
    let mut page = String::from(HEAD);
    // Writing to a string can't fail.
    let _ = draw(&mut page, history, violations, replay);
    page
}

fn colour(agent: usize) -> &'static str {
    COLOURS.get(agent % COLOURS.len()).copied().unwrap_or("gray")
}

struct Sheet<'a> {
    svg: String,
    end: Duration,
    history: &'a History,
}

impl Sheet<'_> {
    fn x(&self, at: Duration) -> f64 {
        LABELS + (WIDTH - LABELS) * at.as_secs_f64() / self.end.as_secs_f64().max(0.001)
    }

    fn bar(
        &mut self,
        (from, until): (Duration, Duration),
        (y, height): (f64, f64),
        fill: &str,
        title: &str,
    ) -> fmt::Result {
        let (from, until) = (self.x(from), self.x(until.min(self.end)));
        let width = (until - from).max(1.0);
        write!(
            self.svg,
            "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" {fill}><title>{}</title></rect>",
            escaped(title)
        )
    }

    fn label(&mut self, y: f64, text: &str) -> fmt::Result {
        write!(self.svg, "<text x=\"2\" y=\"{y:.1}\">{}</text>", escaped(text))
    }

    fn terms(&mut self, y: f64) -> fmt::Result {
        let mut terms: Vec<(u64, Duration)> = Vec::new();
        for entry in self.history.log.values() {
            if terms.last().is_none_or(|(term, _)| *term < entry.term) {
                terms.push((entry.term, entry.at));
            }
        }
        self.label(y + 14.0, "term")?;
        for (at, (term, from)) in terms.iter().enumerate() {
            let until = terms.get(at + 1).map_or(self.end, |(_, next)| *next);
            let fill =
                if at % 2 == 0 { "fill=\"var(--lane)\"" } else { "fill=\"var(--dead)\" opacity=\".5\"" };
            self.bar((*from, until), (y, 18.0), fill, &format!("term {term}, from {from:?}"))?;
            if self.x(until) - self.x(*from) > 14.0 {
                write!(
                    self.svg,
                    "<text x=\"{:.1}\" y=\"{:.1}\">{term}</text>",
                    self.x(*from) + 3.0,
                    y + 13.0
                )?;
            }
        }
        Ok(())
    }

    fn agent(&mut self, agent: usize, y: f64) -> fmt::Result {
        let history = self.history;
        self.label(y + 17.0, &format!("agent {agent}"))?;
        write!(
            self.svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"5\" height=\"22\" fill=\"{}\"/>",
            LABELS - 9.0,
            y,
            colour(agent)
        )?;
        for life in history.lives.iter().filter(|life| life.agent == agent) {
            let until = life.until.unwrap_or(self.end);
            self.bar(
                (life.from, until),
                (y, 22.0),
                "fill=\"var(--lane)\"",
                &format!("alive from {:?}", life.from),
            )?;
        }
        for disturbance in
            history.disturbances.iter().filter(|it| it.agents.contains(&agent) || it.agents.is_empty())
        {
            let (top, fill) = match disturbance.label {
                "crash" | "power loss" | "power loss of all" | "shutdown" => (0.0, "#c62828"),
                "pause" | "suspend" => (5.0, "#d9822b"),
                label if label.starts_with("clock") || label == "wall clock" => (15.0, "#b34fc5"),
                label if label.contains("disk") || label.contains("bits") => (18.0, "#7a8b00"),
                _ => (10.0, "#2f6fde"),
            };
            let fill = format!("fill=\"{fill}\" opacity=\".75\"");
            self.bar((disturbance.from, disturbance.until), (y + top, 4.0), &fill, &disturbance.to_string())?;
        }
        for hit in history.at_points.iter().filter(|hit| hit.agent == agent) {
            let fill = match hit.effect {
                PointEffect::Stall(_) => "fill=\"#d9822b\"",
                _ => "fill=\"#c62828\"",
            };
            self.bar((hit.at, hit.at), (y - 2.0, 26.0), fill, hit.to_string().trim())?;
        }
        Ok(())
    }

    fn name(&mut self, name: &str, y: f64) -> fmt::Result {
        let history = self.history;
        self.label(y + 14.0, name)?;
        for belief in history.beliefs.iter().filter(|belief| belief.name.as_str() == name) {
            let title = format!(
                "agent {} with token {}, from {:?} to {:?}",
                belief.agent, belief.token, belief.from, belief.seen
            );
            let fill = format!("fill=\"{}\" opacity=\".85\"", colour(belief.agent));
            self.bar((belief.from, belief.seen), (y + 2.0, 12.0), &fill, &title)?;
        }
        for write in history.writes.iter().filter(|write| write.name.as_str() == name) {
            let (fill, what) = if write.admitted { ("#2e9e5b", "let in") } else { ("var(--bad)", "refused") };
            let title = format!("a write of agent {} with token {} was {what}", write.agent, write.token);
            self.bar((write.at, write.at), (y + 17.0, 6.0), &format!("fill=\"{fill}\""), &title)?;
        }
        Ok(())
    }
}

fn draw(page: &mut String, history: &History, violations: &[Violation], replay: &str) -> fmt::Result {
    let last = history.log.values().map(|entry| entry.at);
    let ends = history.lives.iter().map(|life| life.until.unwrap_or(life.from));
    let end = last.chain(ends).chain(history.mended).max().unwrap_or(Duration::from_secs(1));
    let mut names = BTreeMap::new();
    history.beliefs.iter().for_each(|belief| *names.entry(belief.name.as_str()).or_insert(0) += 1);
    let mut sheet = Sheet { svg: String::new(), end, history };
    let mut y = 6.0;
    sheet.terms(y)?;
    y += LANE;
    for agent in 0..history.agents {
        sheet.agent(agent, y)?;
        y += LANE;
    }
    for name in names.keys() {
        sheet.name(name, y)?;
        y += LANE;
    }
    for second in (0..=end.as_secs()).step_by(10) {
        let x = sheet.x(Duration::from_secs(second));
        write!(sheet.svg, "<text class=\"dim\" x=\"{x:.1}\" y=\"{:.1}\">{second} s</text>", y + 12.0)?;
    }
    for violation in violations {
        let x = sheet.x(violation.at.min(end));
        write!(
            sheet.svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{y:.1}\" stroke=\"var(--bad)\" stroke-width=\"2\"><title>{}</title></line><text class=\"bad\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            escaped(&violation.to_string()),
            x + 3.0,
            y - 2.0,
            escaped(violation.rule)
        )?;
    }
    match violations {
        [] => write!(page, "<h1>no rule broken</h1>")?,
        broken => write!(page, "<h1 class=\"bad\">{} times a rule was broken</h1>", broken.len())?,
    }
    write!(page, "<p>replay it: <code>{}</code></p>", escaped(replay))?;
    for violation in violations.iter().take(20) {
        write!(page, "<p class=\"bad\">{}</p>", escaped(&violation.to_string()))?;
    }
    write!(
        page,
        "<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"the run in time\">{}</svg></div><p>Agents: grey while alive; red crash, power loss or shutdown, orange standing still, blue network, purple clock, green disk; upright what happened at a fault point. Names: who believed, by the agent's colour; below, writes that were let in (green) or refused (red).</p><pre>",
        y + 18.0,
        sheet.svg
    )?;
    for disturbance in &history.disturbances {
        writeln!(page, "{}", escaped(&disturbance.to_string()))?;
    }
    for hit in &history.at_points {
        writeln!(page, "{}", escaped(&hit.to_string()))?;
    }
    page.push_str("</pre></body></html>\n");
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::check::example::{S, example};

    #[test]
    fn it_needs_nothing_from_elsewhere_and_marks_what_went_wrong() {
        let broken = [Violation::new("L1", 20 * S, "two <believe>")];
        let page = picture(&example(), &broken, "leasehold chaos replay 7");
        assert!(page.contains("two &lt;believe&gt;") && page.contains("leasehold chaos replay 7"));
        assert!(page.contains("agent 2") && page.contains(">L1</text>") && page.ends_with("</html>\n"));
        assert!(!page.contains("http"), "it names an address");
        for tag in ["svg", "rect", "title", "text", "pre", "body"] {
            let closed = page.matches(&format!("</{tag}>")).count();
            assert_eq!(
                page.matches(&format!("<{tag}")).count(),
                closed + if tag == "rect" { page.matches("/>").count() } else { 0 },
                "{tag}"
            );
        }
        assert!(picture(&History::default(), &[], "").contains("no rule broken"));
    }
}
