use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use super::{Protocol, action::describe, mutants::Mutant, rules::*, world::*};

fn world() -> World {
    use Rate::*;
    World {
        clocks: vec![Clocks::new(Slow, Slow, Fast, Fast)],
        ttl_ticks: 2,
        budget: Budget { elections: 0, stalls: 0, duplicates: 0, failures: 0, doubts: 0, cancels: 0, releases: 1 },
        ids: [1, 1],
        mail_most: 2,
        memory: 1000,
        stall_ticks: 3,
        confirm_ticks: 1,
        slow_commits: false,
        last_tick: None,
        mutant: None,
        sometimes: vec![],
    }
}

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn explore() {
    use Rate::*;
    let mut world = world();
    world.ttl_ticks = env("TTL", 2);
    world.ids = [env("IDS", 1) as usize, env("IDB", env("IDS", 1)) as usize];
    world.mail_most = env("MAIL", 2) as usize;
    world.memory = env("MEMORY", 1000) as usize;
    world.stall_ticks = env("STALLT", 3);
    world.slow_commits = env("SLOW", 0) == 1;
    world.confirm_ticks = env("CT", 1);
    world.last_tick = std::env::var("LAST").ok().map(|t| t.parse().unwrap());
    world.budget = Budget { elections: env("E", 0) as u8, stalls: env("S", 0) as u8, duplicates: env("D", 0) as u8, failures: env("F", 0) as u8, doubts: env("DOUBT", 0) as u8, cancels: env("C", 0) as u8, releases: env("R", 1) as u8 };
    world.clocks = match env("CLOCKS", 0) { 0 => vec![Clocks::new(Slow, Slow, Fast, Fast)], 1 => vec![Clocks::new(True,True,True,True)],
        2 => vec![Clocks::new(Fast,Fast,Slow,Slow)], 3 => vec![Clocks::new(Slow,Fast,Slow,Fast)], _ => vec![Clocks::new(Slow, Slow, Fast, Fast), Clocks::new(Fast,Fast,Slow,Slow),Clocks::new(Slow,Fast,Slow,Fast)] };
    use Mutant::*;
    world.mutant = [None, Some(NoQuorum), Some(CountsFromAnswer), Some(HolderWithoutMargin), Some(LeaderWithoutMargin), Some(KeepsDeadlines), Some(NoTermCheck), Some(RenewsExpiring), Some(ForgetsEnded), Some(NoConfirmation), Some(NoCompensation)][env("MUTANT", 0) as usize];
        if std::env::var_os("NOTES").is_some() { world.sometimes = all_notes(); }
    let protocol = Protocol { world };
    let began = Instant::now();
    let want = match std::env::var("WANT").as_deref() {
        Ok("L1") => HasDiscoveries::AnyOf([ONE_BELIEVER].into()),
        Ok("L5") => HasDiscoveries::AnyOf([BELIEVER_HOLDS].into()),
        Ok("L4") => HasDiscoveries::AnyOf([NOT_EARLY].into()),
        _ => HasDiscoveries::AnyFailures,
    };
    let builder = protocol.clone().checker().threads(env("THREADS", 1) as usize).finish_when(want).target_state_count(env("MOST", 30_000_000) as usize);
    fn report<C: Checker<Protocol>>(began: Instant, checker: C) {
    eprintln!("{} unique of {}, depth {}, {:?}", checker.unique_state_count(), checker.state_count(), checker.max_depth(), began.elapsed());
    for (name, path) in checker.discoveries() {
        eprintln!("FOUND {name} {}", path.clone().into_vec().len()); if !name.contains(": ") && env("PATHS",0)==0 { continue; }
        for (state, action) in path.into_vec() {
            if let Some(action) = action { eprintln!("   {:>3} {}", state.tick, describe(&state, action)); }
        }
    }
    }
    if env("DFS", 0) == 1 { report(began, builder.spawn_dfs().join()) } else { report(began, builder.spawn_bfs().join()) }
}

#[test]
fn alike() {
    use std::collections::*;
    let mut world = world();
    world.ttl_ticks = env("TTL", 2);
    world.ids = [env("IDS", 1) as usize, env("IDB", env("IDS", 1)) as usize];
    world.mail_most = env("MAIL", 1) as usize;
    world.memory = env("MEMORY", 1000) as usize;
    world.stall_ticks = env("STALLT", 2);
    world.budget = Budget { elections: env("E", 0) as u8, stalls: env("S", 0) as u8, duplicates: env("D", 0) as u8, failures: env("F", 0) as u8, doubts: env("DOUBT", 0) as u8, cancels: env("C", 0) as u8, releases: env("R", 1) as u8 };
    let protocol = Protocol { world };
    let mut queue = VecDeque::from(protocol.init_states());
    let mut known: BTreeMap<Vec<u8>, (State, BTreeSet<Vec<u8>>)> = BTreeMap::new();
    let after = |state: &State| -> Vec<(crate::model::Action, State)> {
        let mut actions = Vec::new();
        protocol.possible(state, &mut actions);
        actions.into_iter().filter_map(|action| Some((action, protocol.step(state, action)?))).collect()
    };
    let (mut compared, mut differ) = (0, 0);
    while let Some(state) = queue.pop_front() {
        let view = state.view();
        let next = after(&state);
        let views: BTreeSet<_> = next.iter().map(|(_, next)| next.view()).collect();
        match known.get(&view) {
            Some((first, seen)) => {
                compared += 1;
                if *seen != views {
                    differ += 1;
                    if differ <= env("SHOW", 1) {
                    if env("FULL",0)==1 {eprintln!("{view:?}\n{first:#?}\n{state:#?}");} else { eprintln!("{view:?}"); }
                    for v in seen.difference(&views) { eprintln!("only first {v:?}"); }
                    for v in views.difference(seen) { eprintln!("only second {v:?}"); }
                    for (a, n) in next { if !seen.contains(&n.view()) { eprintln!("second by {a:?}"); } }
                    for (a, n) in after(first) { if !views.contains(&n.view()) { eprintln!("first by {a:?}"); } }
                    }
                }
            }
            None => {
                known.insert(view, (state, views));
                queue.extend(next.into_iter().map(|(_, next)| next));
            }
        }
        if known.len() as u64 > env("MOST", 100_000) { break; }
    }
    eprintln!("{} known, {compared} compared, {differ} differ", known.len());
}
