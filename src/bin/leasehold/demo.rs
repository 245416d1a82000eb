//! `demo`: what a lease does for its users, as a timeline, in one process and unattended.
//!
//! It is a test as much as a show: each thing that it says it has checked, and the first that is not so ends it with
//! an error.

use std::{future::Future, time::Duration};

use leasehold::{
    Agent, Clock as _, Fence, FenceError, InProcessNetwork, Lease, Moment, SystemClock, Timing, Token,
};

use crate::{exit::Failed, output, seam};

/// The three agents and their addresses; on this network they are just names.
const AGENTS: [(&str, &str); 3] = [("anna", "anna:1"), ("bert", "bert:1"), ("cleo", "cleo:1")];
const NAME: &str = "orders.db";
/// Short, so that nobody is bored.
const TTL: Duration = Duration::from_secs(3);
/// Everything that is waited for comes sooner, or the demo has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the timeline counts from.
struct Timeline(Moment);

impl Timeline {
    /// One event, now.
    fn at(&self, who: &str, what: &str) -> Result<(), Failed> {
        self.at_moment(SystemClock.now(), who, what)
    }

    fn at_moment(&self, moment: Moment, who: &str, what: &str) -> Result<(), Failed> {
        output::line(&format!("  t=+{:6.3} s  {who:<8} {what}", moment.since(self.0).as_secs_f64()))
    }
}

fn explain(text: &str) -> Result<(), Failed> {
    output::line(&format!("\n{text}"))
}

/// What the demo shows must be so.
fn expect(holds: bool, what: &str) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(Failed::new(format!("the demo expected that {what}, and it was not so"))) }
}

/// For what fails only when something is broken.
fn broken(doing: &str) -> impl Fn(&dyn std::fmt::Display) -> Failed + '_ {
    move |error| Failed::new(format!("the demo failed {doing}: {error}"))
}

async fn soon<T>(doing: &str, future: impl Future<Output = T>) -> Result<T, Failed> {
    let late = || Failed::new(format!("the demo gave up {doing} after {PATIENCE:?}"));
    seam::timeout(PATIENCE, future).await.ok_or_else(late)
}

/// The resource that the lease protects: it takes a write only with a token that its fence admits.
struct Store {
    fence: Fence,
    rows: Vec<String>,
}

impl Store {
    fn write(&mut self, token: Token, row: &str) -> Result<(), FenceError> {
        self.fence.admit(token)?;
        self.rows.push(row.to_owned());
        Ok(())
    }
}

/// Plays it.
pub(crate) async fn demo() -> Result<(), Failed> {
    output::line("leasehold: three agents agree on who may write, and one is cut off while it does.")?;
    let timeline = Timeline(SystemClock.now());
    let network = InProcessNetwork::new(1);
    let agents = start(&timeline, &network).await?;
    let [anna, bert, cleo] = agents.as_slice() else { return Err(Failed::new("three agents were to start")) };
    let mut store = Store { fence: Fence::in_memory(), rows: Vec::new() };

    let old = take(&timeline, anna, &mut store).await?;
    let new = cut_off(&timeline, &network, &old, bert, cleo).await?;
    fenced(&timeline, &mut store, &old, &new)?;
    heal(&timeline, &network, anna, &new).await?;
    let rows = store.rows.len();
    let last = hand_over(&timeline, anna, new).await?;
    drop(last);

    futures_util::future::join_all(agents.iter().map(Agent::shutdown)).await;
    output::line(&format!(
        "\nShown, and checked on the way:\n\
         \x20 - one holder at a time: a second writer was told who holds the lease, and waited its turn\n\
         \x20 - cut off from the others, the holder stopped by its own clock, BEFORE the next one was granted the lease\n\
         \x20 - every grant has a larger token, and the store refused the old one ({rows} writes went in, none was lost)\n\
         \x20 - with the connection back, all agents agree, and a lease that is given back changes hands at once\n\
         \n\
         Next: `leasehold agent --help` starts agents of your own, `leasehold run --help` is flock for a cluster."
    ))?;
    Ok(())
}

async fn start(timeline: &Timeline, network: &InProcessNetwork) -> Result<Vec<Agent>, Failed> {
    explain(
        "1. Three agents start and found a cluster. Each has a full copy of the lease table; a change counts when\n   \
         two of the three have it.",
    )?;
    let addresses = AGENTS.map(|(_, address)| address);
    let starts = AGENTS.map(|(name, address)| {
        Agent::builder(name)
            .listen(address)
            .founders(addresses)
            .network(network)
            .timing(Timing::fast_lan())
            .ttl(TTL)
            .start_within(PATIENCE)
            .start()
    });
    let agents = futures_util::future::try_join_all(starts).await?;
    let names = AGENTS.map(|(name, _)| name).join(", ");
    timeline.at("cluster", &format!("{names} are ready"))?;
    Ok(agents)
}

async fn take(timeline: &Timeline, anna: &Agent, store: &mut Store) -> Result<Lease, Failed> {
    explain(&format!(
        "2. anna wants to write to {NAME}. She takes the lease on it: hers for {TTL:?}, and renewed in the background\n   \
         for as long as she reaches a majority. The grant has a token; the store asks for it with every write."
    ))?;
    let lease = soon("acquiring", anna.acquire(NAME)).await??;
    timeline.at("anna", &format!("holds the lease, token {}", lease.token()))?;
    store.write(lease.token(), "anna's first").map_err(|error| broken("writing")(&error))?;
    timeline.at("anna", "writes; the store has seen her token now")?;
    seam::sleep(TTL * 4 / 3).await;
    expect(lease.check().is_ok(), "anna holds the lease for longer than its ttl")?;
    timeline.at("anna", &format!("still holds it, after more than {TTL:?}: it was renewed"))?;
    Ok(lease)
}

/// The heart: returns the next holder's lease.
async fn cut_off(
    timeline: &Timeline,
    network: &InProcessNetwork,
    old: &Lease,
    bert: &Agent,
    cleo: &Agent,
) -> Result<Lease, Failed> {
    explain("3. bert wants to write, too. The lease is taken, so he queues for it.")?;
    let held = bert.try_acquire(NAME).await.err().map(|error| error.to_string()).unwrap_or_default();
    expect(held.contains("anna"), "bert is told that anna holds the lease")?;
    timeline.at("bert", &format!("asks, and hears: {held}"))?;
    let waiting = async {
        let lease = bert.acquire(NAME).await?;
        Ok::<_, Failed>((SystemClock.now(), lease))
    };
    let story = async {
        soon("waiting for the queue", queued(cleo)).await??;
        timeline.at("bert", "waits in the queue")?;
        explain(
            "4. The network fails: anna is cut off from the others. She runs on and can't be told anything. Two things\n   \
             must happen, in this order: she stops believing in her lease, and bert gets it. No message can see to\n   \
             that; clocks do. Hers gives the lease up a little early, the cluster's a little late.",
        )?;
        network.isolate(AGENTS[0].1);
        timeline.at("network", "anna is cut off")?;
        expect(old.check().is_ok(), "anna still holds the lease right after the cut")?;
        timeline.at(
            "anna",
            &format!(
                "still holds the lease, {:.1} s are left without a renewal",
                old.remaining().as_secs_f64()
            ),
        )?;
        let lost = old.lost().await;
        let lost_at = SystemClock.now();
        timeline.at_moment(lost_at, "anna", &format!("has lost it, by her own clock: {}", lost.reason))?;
        expect(old.check().is_err(), "anna's check() fails after the loss")?;
        Ok::<_, Failed>(lost_at)
    };
    // The grant is looked for first: if both had come by then, it would be dated before the loss.
    let both = futures_util::future::try_join(waiting, story);
    let ((granted_at, new), lost_at) = soon("waiting for the next grant", both).await??;
    timeline.at_moment(granted_at, "bert", &format!("holds the lease, token {}", new.token()))?;
    let gap = granted_at.since(lost_at);
    expect(lost_at < granted_at, "anna had lost the lease before bert was granted it")?;
    timeline.at("", &format!("=> for {} ms nobody held it; at no moment did both", gap.as_millis()))?;
    expect(new.token() > old.token(), "bert's token is larger than anna's")?;
    Ok(new)
}

/// Resolves when somebody waits for the lease.
async fn queued(agent: &Agent) -> Result<(), Failed> {
    let mut changes = agent.watch(NAME)?;
    while agent.holder(NAME).await?.is_none_or(|held| held.waiters == 0) {
        changes.next().await.ok_or_else(|| Failed::new("the demo's agent has stopped"))?;
    }
    Ok(())
}

fn fenced(timeline: &Timeline, store: &mut Store, old: &Lease, new: &Lease) -> Result<(), Failed> {
    explain(
        "5. Clocks can't protect a write that left anna before and arrives only now (or a process that stood still\n   \
         between its check and its write). The token can: the store's fence refuses all that are smaller than the\n   \
         largest it has seen.",
    )?;
    store.write(new.token(), "bert's first").map_err(|error| broken("writing")(&error))?;
    timeline.at("bert", "writes; the store has seen his token now")?;
    let refused = store.write(old.token(), "anna's second, much too late");
    let Err(refused @ FenceError::Stale { .. }) = refused else {
        return Err(Failed::new("the demo expected that the store refuses anna's old token, and it did not"));
    };
    timeline.at("anna", &format!("writes late, and is refused: {refused}"))?;
    expect(
        store.rows == ["anna's first", "bert's first"],
        "the store has what the holders wrote, and nothing else",
    )
}

async fn heal(
    timeline: &Timeline,
    network: &InProcessNetwork,
    anna: &Agent,
    new: &Lease,
) -> Result<(), Failed> {
    explain("6. The network is mended. anna's agent catches up by itself.")?;
    network.rejoin(AGENTS[0].1);
    timeline.at("network", "anna is connected again")?;
    let holder = soon("reading", anna.holder(NAME)).await??;
    let holder = holder.ok_or_else(|| Failed::new("the demo expected that bert still holds the lease"))?;
    expect(holder.token == new.token(), "anna sees bert's lease")?;
    timeline.at("anna", &format!("asks, and hears: {holder}"))?;
    Ok(())
}

async fn hand_over(timeline: &Timeline, anna: &Agent, new: Lease) -> Result<Lease, Failed> {
    explain("7. bert is done and gives the lease back: whoever asks next has it at once.")?;
    let before = new.token();
    soon("releasing", new.release()).await?.map_err(|error| broken("releasing")(&error))?;
    timeline.at("bert", "gives the lease back")?;
    let lease = soon("acquiring", anna.acquire(NAME)).await??;
    timeline.at("anna", &format!("holds the lease, token {}", lease.token()))?;
    expect(lease.token() > before, "anna's second token is larger than bert's")?;
    Ok(lease)
}
