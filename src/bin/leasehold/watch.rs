//! `watch`: a line for each change, as it happens.

use std::time::Duration;

use leasehold::{Change, ChangeKind, Client, EndKind, Name, Watch};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    args::WatchArgs,
    exit::{self, Failed},
    look::lease_json,
    output::{self, in_ms},
    seam::{self, Either, Signals, select2},
};

/// How often it is asked whether any agent answers, beside the watch itself.
const LOOK_FOR_CUT: Duration = Duration::from_secs(5);

/// Tells changes until it is told to end, or nobody listens any more.
pub(crate) async fn watch(args: WatchArgs) -> Result<(), Failed> {
    let mut signals = Signals::of(&[Signal::TERM, Signal::INT])?;
    if let Some(name) = &args.name {
        Name::new(name).map_err(|error| Failed::with(exit::USAGE, error))?;
    }
    let began = async {
        let client = output::connect(&args.look.connect, None).await?;
        let watch = match &args.name {
            Some(name) => client.watch(name).await?,
            None => client.watch_prefix(args.prefix.as_deref().unwrap_or_default()).await?,
        };
        Ok::<_, Failed>((client, watch))
    };
    let (client, mut watch) = match select2(began, signals.next()).await {
        Either::First(began) => began?,
        Either::Second(_) => return Ok(()),
    };
    if let Some(index) = args.since {
        watch = watch.since(index);
    } else if args.present {
        watch = watch.with_present();
    }
    let ends = select2(signals.next(), seam::nobody_reads(std::io::stdout()));
    let told = select2(tell_all(&mut watch, args.look.json), tell_cuts(&client));
    let result = match select2(told, ends).await {
        Either::First(Either::First(result) | Either::Second(result)) => result,
        Either::Second(_) => Ok(()),
    };
    let _ = select2(client.close(), signals.next()).await;
    result
}

async fn tell_all(watch: &mut Watch, json: bool) -> Result<(), Failed> {
    let colour = output::colour(&std::io::stdout());
    while let Some(change) = watch.next().await {
        let lines = if json { vec![in_json(&change).to_string()] } else { in_words(&change, colour) };
        for line in lines {
            // A pipe that is full keeps this from going on, but not from hearing signals.
            match seam::blocking(move || output::try_line(&line)).await {
                Some(Ok(())) => {}
                None => return Ok(()),
                Some(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                Some(Err(error)) => {
                    return Err(Failed::new(format!(
                        "changes can't be written to standard output: {error}; free the cause, and go on with --since {}",
                        change.index.saturating_sub(1)
                    )));
                }
            }
        }
    }
    Ok(())
}

/// Tells when no agent answers, and when one does again: silence must not look like quiet. A watcher asks on by itself
/// until somebody answers, and says nothing of it.
async fn tell_cuts(client: &Client) -> Result<(), Failed> {
    let mut is_cut = false;
    loop {
        let silent = client.status().await.is_err();
        if silent != is_cut {
            is_cut = silent;
            let text = if is_cut {
                "no agent answers; changes are told when one does again, without a gap"
            } else {
                "an agent answers again"
            };
            // Whether somebody reads it must not matter to the changes.
            seam::begin(move || exit::tell(text));
        }
        seam::sleep(LOOK_FOR_CUT).await;
    }
}

/// Time, index, name, what, who, token. Not a table: nobody knows how wide the next line will be.
fn in_words(change: &Change, colour: bool) -> Vec<String> {
    let head = format!("{}  {}", output::time_ms(seam::wall()), change.index);
    let paint =
        |what: &str, code: u8| if colour { format!("\x1b[{code}m{what}\x1b[0m") } else { what.to_owned() };
    let (green, red, yellow, plain) = (32, 31, 33, 0);
    let text =
        match &change.kind {
            ChangeKind::Granted { name, agent, token, .. } => {
                format!("{name}  {}  {agent}  token {token}", paint("granted", green))
            }
            ChangeKind::Ended { name, agent, token, how } => {
                let code = if matches!(how, EndKind::Released) { plain } else { red };
                format!("{name}  {}  {agent}  token {token}", paint(&how.to_string(), code))
            }
            ChangeKind::Revoked { name, agent, token, by, reason, heir } => {
                let heir = heir.as_ref().map_or_else(String::new, |heir| format!(" for {heir}"));
                let what = format!("is being revoked{heir} by {by} ({reason})");
                format!("{name}  {}  {agent}  token {token}", paint(&what, yellow))
            }
            ChangeKind::Queued { name, agent } => format!("{name}  waits  {agent}"),
            ChangeKind::Left { name, agent } => format!("{name}  left the queue  {agent}"),
            ChangeKind::Closed { name, agent, token, delay } => {
                let what = format!("closed for {delay:?} to all but");
                format!("{name}  {}  {agent}  token {token}", paint(&what, yellow))
            }
            ChangeKind::Opened { name } => format!("{name}  open again"),
            ChangeKind::Present { held, complete, lagged } => {
                let mut lines = Vec::new();
                if *lagged {
                    let what = "some changes before this are missing; this is what holds now";
                    lines.push(format!("{head}  {}", paint(what, yellow)));
                }
                lines.extend(held.iter().map(|(name, held)| {
                    format!("{head}  {name}  held  {}  token {}", held.agent, held.token)
                }));
                if held.is_empty() {
                    lines.push(format!("{head}  nothing is held"));
                }
                if !complete {
                    lines.push(format!("{head}  … and more; see `leasehold leases`"));
                }
                return lines;
            }
            other => format!("something else that this version does not know: {other:?}"),
        };
    vec![format!("{head}  {text}")]
}

fn in_json(change: &Change) -> Value {
    let mut json = match &change.kind {
        ChangeKind::Granted { agent, token, ttl, metadata, .. } => json!({
            "event": "granted",
            "agent": agent.as_str(),
            "token": token.to_string(),
            "ttl_ms": in_ms(*ttl),
            "metadata": String::from_utf8_lossy(metadata),
        }),
        ChangeKind::Ended { agent, token, how, .. } => {
            let (how, by, reason) = match how {
                EndKind::Released => ("released", None, None),
                EndKind::GivenUp => ("given_up", None, None),
                EndKind::Expired => ("expired", None, None),
                EndKind::Transferred => ("transferred", None, None),
                EndKind::Revoked { by, reason } => ("revoked", Some(by.as_str()), Some(reason)),
                _ => ("other", None, None),
            };
            json!({
                "event": "ended",
                "agent": agent.as_str(),
                "token": token.to_string(),
                "how": how,
                "by": by,
                "reason": reason,
            })
        }
        ChangeKind::Revoked { agent, token, by, reason, heir, .. } => json!({
            "event": "revoked",
            "agent": agent.as_str(),
            "token": token.to_string(),
            "by": by.as_str(),
            "reason": reason,
            "heir": heir.as_ref().map(|heir| heir.as_str()),
        }),
        ChangeKind::Queued { agent, .. } => json!({ "event": "queued", "agent": agent.as_str() }),
        ChangeKind::Left { agent, .. } => json!({ "event": "left", "agent": agent.as_str() }),
        ChangeKind::Closed { agent, token, delay, .. } => json!({
            "event": "closed",
            "agent": agent.as_str(),
            "token": token.to_string(),
            "delay_ms": in_ms(*delay),
        }),
        ChangeKind::Opened { .. } => json!({ "event": "opened" }),
        ChangeKind::Present { held, complete, lagged } => json!({
            "event": "present",
            "held": held.iter().map(|(name, held)| lease_json(name, held)).collect::<Vec<_>>(),
            "complete": complete,
            "lagged": lagged,
        }),
        _ => json!({ "event": "other" }),
    };
    if let Some(name) = change.kind.name() {
        json["name"] = name.as_str().into();
    }
    json["time"] = output::time_ms(seam::wall()).into();
    json["index"] = change.index.into();
    json
}
