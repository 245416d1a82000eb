//! A picture of a run: one HTML file that needs nothing else, for people.
//!
//! From left to right goes the true time. On top the terms; then a lane for each agent: when it lived and when it led, and
//! below that what was done to it, each kind in a row of its own. Then a lane for each name: framed, who held it as the
//! log has it; filled, in the same colour, who believed so; below, what its protected resource let in and what it refused.
//! What broke a rule is a line through all lanes. The lanes scroll beside their labels where the screen is narrow.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    time::Duration,
};

use super::{
    check::Violation,
    history::{Belief, Disturbance, History},
    world::PointEffect,
};
use crate::{
    change::{ChangeKind, EndKind},
    token::Token,
};

/// How wide the labels are, in pixels; and a second of the run, and all of it at least and at most.
const LABELS: f64 = 104.0;
const PER_SECOND: f64 = 17.0;
const WIDTH_MIN: f64 = 860.0;
const WIDTH_MAX: f64 = 9_000.0;
/// The room for what is written at the right end.
const MARGIN: f64 = 34.0;
/// Between two lanes.
const GAP: f64 = 12.0;
/// A row of a lane in which leases are shown, and one for what is done to an agent.
const ROW: f64 = 22.0;
const STRIP: f64 = 5.0;
/// Of the letters of a label, so many have room.
const LETTERS: usize = 14;
/// So many violations are told in words.
const TOLD_MAX: usize = 20;

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>leasehold chaos</title><style>\
:root{color-scheme:light dark;--ink:#1c2430;--paper:#fff;--lane:#e8ecf1;--dead:#9aa4b2;--bad:#c62828;--dim:#5b6675;\
--good:#1f8a4c;--net:#2f6fde;--still:#c96f12;--clock:#a43cb8;--disk:#6d7c00;--leads:#1c2430}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--paper:#12161c;--lane:#242b35;--dead:#566070;--bad:#ff6b6b;\
--dim:#9aa4b2;--good:#4cc27d;--net:#6f9ff5;--still:#eda04d;--clock:#d483e4;--disk:#b5c433;--leads:#e6e9ee}}\
body{margin:0;padding:12px;font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper)}\
h1{font-size:1.25em;margin:.2em 0}h2{font-size:1em;margin:1.2em 0 .3em}ol{padding-left:1.6em;margin:.4em 0}\
.lanes{display:flex;margin:12px 0}.lanes svg{display:block;flex:none}.scroll{overflow-x:auto;min-width:0}\
text{font:12px system-ui,sans-serif;fill:var(--ink)}text.in{font-size:10px;paint-order:stroke;stroke:var(--paper);\
stroke-width:3px;stroke-linejoin:round}text.dim{fill:var(--dim)}.bad{color:var(--bad)}text.bad{fill:var(--bad);\
font-weight:700;paint-order:stroke;stroke:var(--paper);stroke-width:3px}\
.legend{display:flex;flex-wrap:wrap;gap:2px 18px;list-style:none;margin:.6em 0;padding:0;font-size:13px}\
.legend svg{vertical-align:-2px;margin-right:5px}.wrap{overflow-wrap:anywhere}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px;margin:0}</style></head><body>\n";

const COLOURS: [&str; 9] =
    ["#2f6fde", "#d9822b", "#2e9e5b", "#b34fc5", "#0fa3b1", "#c2410c", "#6d6ad8", "#7a8b00", "#d1477a"];

/// What the colours and forms of the agents' lanes and of the resources mean.
const LEGEND: [(&str, &str); 9] = [
    ("<rect width=\"16\" height=\"12\" fill=\"var(--lane)\"/>", "the agent lives"),
    (
        "<rect width=\"16\" height=\"12\" fill=\"var(--leads)\" opacity=\".55\"/>",
        "it leads, in the term named",
    ),
    ("<rect width=\"16\" height=\"12\" fill=\"var(--bad)\" opacity=\".8\"/>", "crash, power loss, shutdown"),
    ("<rect y=\"4\" width=\"16\" height=\"5\" fill=\"var(--still)\"/>", "it stands still"),
    ("<rect y=\"4\" width=\"16\" height=\"5\" fill=\"var(--net)\"/>", "its network is cut or bad"),
    ("<rect y=\"4\" width=\"16\" height=\"5\" fill=\"var(--clock)\"/>", "its clock is wrong"),
    ("<rect y=\"4\" width=\"16\" height=\"5\" fill=\"var(--disk)\"/>", "its disk is slow, full or fails"),
    ("<rect x=\"7\" width=\"2\" height=\"6\" fill=\"var(--good)\"/>", "the resource lets a write in"),
    ("<rect x=\"7\" y=\"3\" width=\"2\" height=\"9\" fill=\"var(--bad)\"/>", "and refuses one"),
];

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

/// In which row of its agent's lane it is shown, and in which colour; nothing for what ends the process, which takes all.
fn strip(disturbance: &Disturbance) -> Option<(f64, &'static str)> {
    match disturbance.label {
        "crash" | "power loss" | "power loss of all" | "shutdown" => None,
        "pause" | "suspend" => Some((0.0, "var(--still)")),
        label if label.contains("clock") => Some((2.0, "var(--clock)")),
        label if label.contains("disk") || label.contains("bits") => Some((3.0, "var(--disk)")),
        _ => Some((1.0, "var(--net)")),
    }
}

/// A lease as the log has it, with who believed in it.
struct Held<'a> {
    agent: usize,
    token: Token,
    from: Duration,
    until: Duration,
    how: Option<&'a EndKind>,
    beliefs: Vec<&'a Belief>,
}

impl Held<'_> {
    /// Until when there is something to show of it.
    fn shown_until(&self) -> Duration {
        self.beliefs.iter().map(|belief| belief.seen).fold(self.until, Duration::max)
    }
}

/// The leases of each name in the order of their grants. A belief that no entry granted is shown as well.
fn leases(history: &History, end: Duration) -> BTreeMap<&str, Vec<Held<'_>>> {
    let number = |agent: &str| agent.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    let mut names: BTreeMap<&str, Vec<Held<'_>>> = BTreeMap::new();
    for (_, at, changed) in history.changes() {
        match &changed.change.kind {
            ChangeKind::Granted { name, agent, token, .. } => {
                let (agent, from, until) = (number(agent.as_str()), at, end);
                let lease = Held { agent, token: *token, from, until, how: None, beliefs: Vec::new() };
                names.entry(name.as_str()).or_default().push(lease);
            }
            ChangeKind::Ended { name, token, how, .. } => {
                let of_name = names.entry(name.as_str()).or_default();
                if let Some(held) = of_name.iter_mut().rfind(|held| held.token == *token) {
                    (held.until, held.how) = (at, Some(how));
                }
            }
            _ => {}
        }
    }
    for belief in &history.beliefs {
        let of_name = names.entry(belief.name.as_str()).or_default();
        if let Some(held) = of_name.iter_mut().find(|held| held.token == belief.token) {
            held.beliefs.push(belief);
        } else {
            let (agent, token, from) = (belief.agent, belief.token, belief.from);
            of_name.push(Held { agent, token, from, until: from, how: None, beliefs: vec![belief] });
        }
    }
    for write in &history.writes {
        names.entry(write.name.as_str()).or_default();
    }
    names.values_mut().for_each(|leases| leases.sort_by_key(|held| (held.from, held.token)));
    names
}

/// Draws lanes: what is written is in `svg`, their labels in `labels`, and `y` is how far down it has come.
struct Sheet<'a> {
    svg: String,
    labels: String,
    y: f64,
    width: f64,
    end: Duration,
    history: &'a History,
}

impl Sheet<'_> {
    fn x(&self, at: Duration) -> f64 {
        self.width * at.min(self.end).as_secs_f64() / self.end.as_secs_f64().max(0.001)
    }

    fn bar(
        &mut self,
        (from, until): (Duration, Duration),
        (y, height): (f64, f64),
        fill: &str,
        title: &str,
    ) -> fmt::Result {
        let (from, until) = (self.x(from), self.x(until));
        let width = (until - from).max(1.5);
        write!(
            self.svg,
            "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" {fill}><title>{}</title></rect>",
            escaped(title)
        )
    }

    /// Words in a bar: the first of these that has room.
    fn words(&mut self, (from, until): (Duration, Duration), y: f64, texts: &[String]) -> fmt::Result {
        const LETTER: f64 = 6.2;
        let (from, room) = (self.x(from), self.x(until) - self.x(from) - 5.0);
        let fits = texts.iter().find(|text| text.chars().count() as f64 * LETTER <= room);
        fits.map_or(Ok(()), |text| {
            let x = from + 3.0;
            write!(self.svg, "<text class=\"in\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escaped(text))
        })
    }

    fn label(&mut self, down: f64, text: &str, swatch: Option<&str>) -> fmt::Result {
        let (y, x) = (self.y + down, if swatch.is_some() { 12.0 } else { 0.0 });
        let shown = if text.chars().count() > LETTERS {
            text.chars().take(LETTERS - 1).chain(['…']).collect()
        } else {
            text.to_owned()
        };
        if let Some(fill) = swatch {
            write!(
                self.labels,
                "<rect x=\"0\" y=\"{:.1}\" width=\"7\" height=\"13\" fill=\"{fill}\"/>",
                y - 11.0
            )?;
        }
        write!(
            self.labels,
            "<text x=\"{x}\" y=\"{y:.1}\">{}<title>{}</title></text>",
            escaped(&shown),
            escaped(text)
        )
    }

    fn seconds(&mut self) -> fmt::Result {
        self.y += 14.0;
        for second in (0..=self.end.as_secs()).step_by(10) {
            let (x, y) = (self.x(Duration::from_secs(second)), self.y);
            write!(self.svg, "<text class=\"dim\" x=\"{x:.1}\" y=\"{y:.1}\">{second} s</text>")?;
        }
        self.y += 4.0;
        Ok(())
    }

    fn terms(&mut self) -> fmt::Result {
        let mut terms: Vec<(u64, Duration)> = Vec::new();
        for entry in self.history.log.values() {
            if terms.last().is_none_or(|(term, _)| *term < entry.term) {
                terms.push((entry.term, entry.at));
            }
        }
        self.label(14.0, "term", None)?;
        for (at, (term, from)) in terms.iter().enumerate() {
            let span = (*from, terms.get(at + 1).map_or(self.end, |(_, next)| *next));
            let fill =
                if at % 2 == 0 { "fill=\"var(--lane)\"" } else { "fill=\"var(--dead)\" opacity=\".5\"" };
            self.bar(span, (self.y, ROW), fill, &format!("term {term}, from {from:?}"))?;
            self.words(span, self.y + 13.0, &[term.to_string()])?;
        }
        self.y += ROW + GAP;
        Ok(())
    }

    fn agent(&mut self, agent: usize) -> fmt::Result {
        let (history, top) = (self.history, self.y);
        let height = ROW + 4.0 * STRIP;
        self.label(14.0, &format!("agent {agent}"), Some(colour(agent)))?;
        for life in history.lives.iter().filter(|life| life.agent == agent) {
            let span = (life.from, life.until.unwrap_or(self.end));
            self.bar(span, (top, height), "fill=\"var(--lane)\"", &format!("alive from {:?}", life.from))?;
        }
        for leads in history.leaderships.iter().filter(|leads| leads.agent == agent) {
            let (span, term) = ((leads.from, leads.seen), leads.term);
            let title = format!("leads in term {term}, seen from {:?} to {:?}", leads.from, leads.seen);
            self.bar(span, (top, ROW - 6.0), "fill=\"var(--leads)\" opacity=\".55\"", &title)?;
            self.words(span, top + 11.5, &[format!("leads, term {term}"), term.to_string()])?;
        }
        let its = |it: &&Disturbance| it.agents.contains(&agent) || it.agents.is_empty();
        for disturbance in history.disturbances.iter().filter(its) {
            let (place, fill) = match strip(disturbance) {
                Some((row, fill)) => ((top + ROW + row * STRIP, STRIP - 1.0), format!("fill=\"{fill}\"")),
                None => ((top, height), "fill=\"var(--bad)\" opacity=\".8\"".to_owned()),
            };
            let span = (disturbance.from, disturbance.until);
            self.bar(span, place, &fill, &disturbance.to_string())?;
        }
        for hit in history.at_points.iter().filter(|hit| hit.agent == agent) {
            let fill = match hit.effect {
                PointEffect::Stall(_) => "fill=\"var(--still)\"",
                _ => "fill=\"var(--bad)\"",
            };
            self.bar((hit.at, hit.at), (top, height), fill, hit.to_string().trim())?;
        }
        self.y += height + GAP;
        Ok(())
    }

    /// As many rows as it takes for leases that are held beside each other.
    fn name(&mut self, name: &str, leases: &[Held<'_>]) -> fmt::Result {
        let history = self.history;
        self.label(14.0, name, None)?;
        let mut rows: Vec<Duration> = Vec::new();
        for held in leases {
            let free = rows.iter().position(|until| *until <= held.from);
            let row = free.unwrap_or(rows.len());
            match rows.get_mut(row) {
                Some(until) => *until = held.shown_until(),
                None => rows.push(held.shown_until()),
            }
            self.lease(held, self.y + row as f64 * ROW)?;
        }
        self.y += rows.len().max(1) as f64 * ROW;
        for write in history.writes.iter().filter(|write| write.name.as_str() == name) {
            let ((down, height, fill), what) = match write.admitted {
                true => ((0.0, 6.0, "var(--good)"), "let in"),
                false => ((3.0, 9.0, "var(--bad)"), "refused"),
            };
            let title = format!(
                "a write of agent {} with token {} was {what} at {:?}",
                write.agent, write.token, write.at
            );
            let place = (self.y + down, height);
            self.bar((write.at, write.at), place, &format!("fill=\"{fill}\""), &title)?;
        }
        self.y += 12.0 + GAP;
        Ok(())
    }

    fn lease(&mut self, held: &Held<'_>, y: f64) -> fmt::Result {
        let (agent, token, fill) = (held.agent, held.token, colour(held.agent));
        let span = (held.from, held.until);
        if held.until > held.from {
            let how = held.how.map_or("not ended".to_owned(), |how| format!("{how} at {:?}", held.until));
            let title = format!("agent {agent} held it with token {token}, from {:?}, {how}", held.from);
            let frame = format!("fill=\"{fill}\" fill-opacity=\".22\" stroke=\"{fill}\"");
            self.bar(span, (y + 0.5, ROW - 3.0), &frame, &title)?;
        }
        for belief in &held.beliefs {
            let title = format!(
                "agent {} believed with token {token}, from {:?} to {:?}",
                belief.agent, belief.from, belief.seen
            );
            let fill = format!("fill=\"{}\"", colour(belief.agent));
            let gaps = belief.gaps.iter().copied();
            let ends = gaps.clone().map(|(from, _)| from).chain([belief.seen]);
            for (from, until) in belief.beginnings().zip(ends) {
                self.bar((from, until), (y + 12.0, 6.0), &fill, &title)?;
            }
        }
        let digits = token.to_string();
        let last = digits.get(digits.len().saturating_sub(4)..).unwrap_or(&digits);
        let shown = (held.from, held.shown_until());
        self.words(shown, y + 10.0, &[format!("{agent}: …{last}"), format!("…{last}"), agent.to_string()])
    }

    /// A line for each violation, and its rule where there is room. The first, which led to the others, is the boldest.
    fn broken(&mut self, violations: &[Violation], top: f64) -> fmt::Result {
        let mut places = BTreeSet::new();
        let mut room_from = f64::MIN;
        for violation in violations {
            let (x, bottom) = (self.x(violation.at), self.y);
            if !places.insert(((x * 10.0) as u64, violation.rule)) {
                continue;
            }
            let weight = match places.len() {
                1 => "stroke-width=\"2\"",
                _ => "stroke-width=\"1\" opacity=\".5\"",
            };
            write!(
                self.svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\" stroke=\"var(--bad)\" {weight}><title>{}</title></line>",
                escaped(&violation.to_string())
            )?;
            if x >= room_from {
                let (x, rule) = (x + 3.0, escaped(violation.rule));
                write!(self.svg, "<text class=\"bad\" x=\"{x:.1}\" y=\"{:.1}\">{rule}</text>", top + 10.0)?;
                room_from = x + 8.0 * rule.len() as f64 + 4.0;
            }
        }
        Ok(())
    }
}

fn verdict(page: &mut String, violations: &[Violation], replay: &str) -> fmt::Result {
    match violations.len() {
        0 => write!(page, "<h1>no rule broken</h1>")?,
        1 => write!(page, "<h1 class=\"bad\">a rule was broken</h1>")?,
        broken => write!(page, "<h1 class=\"bad\">rules were broken {broken} times</h1>")?,
    }
    writeln!(page, "<p class=\"wrap\">replay it: <code>{}</code></p>", escaped(replay))?;
    if !violations.is_empty() {
        page.push_str("<ol class=\"bad wrap\">");
        for violation in violations.iter().take(TOLD_MAX) {
            write!(page, "<li>{}</li>", escaped(&violation.to_string()))?;
        }
        page.push_str("</ol>\n");
    }
    if violations.len() > TOLD_MAX {
        writeln!(page, "<p class=\"bad\">and {} more</p>", violations.len() - TOLD_MAX)?;
    }
    Ok(())
}

fn legend(page: &mut String) -> fmt::Result {
    let swatch = |page: &mut String, form: &str, text: &str| {
        write!(page, "<li><svg width=\"16\" height=\"12\" aria-hidden=\"true\">{form}</svg>{text}</li>")
    };
    page.push_str("<ul class=\"legend\">");
    for (form, text) in LEGEND {
        swatch(page, form, text)?;
    }
    let (fill, tall) = (colour(0), "width=\"15\" height=\"11\" x=\".5\" y=\".5\"");
    let frame = format!("<rect {tall} fill=\"{fill}\" fill-opacity=\".22\" stroke=\"{fill}\"/>");
    swatch(page, &frame, "who holds it, by the log: the agent, and the last digits of the token")?;
    let belief = format!("<rect y=\"3\" width=\"16\" height=\"6\" fill=\"{fill}\"/>");
    swatch(page, &belief, "who believes so, by the agent’s colour")?;
    let line = "<rect x=\"7\" width=\"2\" height=\"12\" fill=\"var(--bad)\"/>";
    swatch(page, line, "through all lanes: a rule was broken")?;
    page.push_str("</ul>\n");
    Ok(())
}

fn draw(page: &mut String, history: &History, violations: &[Violation], replay: &str) -> fmt::Result {
    let last = history.log.values().map(|entry| entry.at);
    let ends = history.lives.iter().map(|life| life.until.unwrap_or(life.from));
    let broken = violations.iter().map(|violation| violation.at);
    let end = last.chain(ends).chain(history.mended).chain(broken).max().unwrap_or_default();
    let end = end.max(Duration::from_secs(1));
    let width = (end.as_secs_f64() * PER_SECOND).clamp(WIDTH_MIN, WIDTH_MAX);
    let mut sheet = Sheet { svg: String::new(), labels: String::new(), y: 14.0, width, end, history };
    sheet.seconds()?;
    sheet.terms()?;
    for agent in 0..history.agents {
        sheet.agent(agent)?;
    }
    for (name, leases) in leases(history, end) {
        sheet.name(name, &leases)?;
    }
    sheet.seconds()?;
    sheet.broken(violations, 0.0)?;
    verdict(page, violations, replay)?;
    legend(page)?;
    let Sheet { svg, labels, y, .. } = sheet;
    let (height, wide) = (y + 4.0, width + MARGIN);
    write!(
        page,
        "<div class=\"lanes\"><svg width=\"{LABELS}\" height=\"{height:.0}\" role=\"img\" aria-label=\"the names of the lanes\">{labels}</svg>"
    )?;
    writeln!(
        page,
        "<div class=\"scroll\" tabindex=\"0\"><svg width=\"{wide:.0}\" height=\"{height:.0}\" role=\"img\" aria-label=\"the run in time\">{svg}</svg></div></div>"
    )?;
    if !history.disturbances.is_empty() || !history.at_points.is_empty() {
        page.push_str("<h2>What was done to it</h2>\n<pre>");
        for disturbance in &history.disturbances {
            writeln!(page, "{}", escaped(&disturbance.to_string()))?;
        }
        for hit in &history.at_points {
            writeln!(page, "{}", escaped(&hit.to_string()))?;
        }
        page.push_str("</pre>\n");
    }
    page.push_str("</body></html>\n");
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        check::example::{S, belief, example},
        history::{Leadership, Write},
    };

    fn balanced(page: &str) {
        for tag in ["svg", "text", "title", "li", "ul", "ol", "pre", "div", "p", "body", "line"] {
            let opened =
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert_eq!(
            page.matches("<rect").count(),
            page.matches("</rect>").count() + page.matches("/>").count()
        );
    }

    #[test]
    fn it_needs_nothing_from_elsewhere_and_marks_what_went_wrong() {
        let broken = [Violation::new("L1", 20 * S, "two <believe>")];
        let page = picture(&example(), &broken, "leasehold chaos replay 7");
        assert!(page.contains("two &lt;believe&gt;") && page.contains("leasehold chaos replay 7"));
        assert!(page.contains("agent 2") && page.contains(">L1</text>") && page.ends_with("</html>\n"));
        assert!(!page.contains("http") && !page.contains("url("), "it names an address");
        balanced(&page);
        let nothing = picture(&History::default(), &[], "");
        assert!(nothing.contains("no rule broken"));
        balanced(&nothing);
    }

    #[test]
    fn what_is_held_what_is_believed_and_who_leads_is_in_it() {
        let mut history = example();
        history.leaderships = vec![Leadership { agent: 1, term: 4, from: S, seen: 9 * S }];
        let name = crate::Name::new("a").unwrap();
        let write = |at, token, admitted| Write::new(at, 0, name.clone(), Token::new(token), admitted);
        history.writes = vec![write(5 * S, 1, true), write(22 * S, 1, false)];
        let page = picture(&history, &[], "");
        for text in [
            "agent 0 held it with token 1, from 1s, expired at 20s",
            "agent 0 believed with token 1",
            "leads in term 4, seen from 1s to 9s",
            ">leads, term 4</text>",
            "with token 1 was let in at 5s",
            "with token 1 was refused at 22s",
        ] {
            assert!(page.contains(text), "{text}");
        }
        // What no entry granted is shown all the same, and what is held beside each other is below each other.
        let height = |page: &str| {
            page.split("height=\"").filter_map(|it| it.split('"').next()?.parse::<u32>().ok()).max()
        };
        history.beliefs.push(belief(2, "a", 99, 2 * S, 4 * S));
        let more = picture(&history, &[], "");
        assert!(more.contains("agent 2 believed with token 99") && height(&more) > height(&page));
    }
}
