//! Golden files of what watchers are told, and what hostile bytes do.

use super::*;
use crate::{
    golden,
    id::NodeId,
    mode::Mode,
    table::{HeldBy, Holder},
};

/// Needs more than 32 bits: a field that was narrowed would not read it.
const LARGE: u64 = 1 << 40;

fn name() -> Name {
    Name::new("orders.db").unwrap()
}

fn agent() -> AgentName {
    AgentName::new("agent-a").unwrap()
}

fn holder() -> HolderInfo {
    HeldBy {
        holder: Holder { agent: agent(), node: NodeId::from_bits(0x0102_0304_0506_0708) },
        token: Token::new(1 << 60),
        since_unix_ms: 1_700_000_000_000,
        ttl_ms: LARGE,
        metadata: Bytes::from_static(b"pid 7"),
        revoked: true,
        waiters: LARGE,
        mode: Mode::Permits { of: 5 },
        holders: LARGE,
    }
    .into()
}

#[test]
fn every_change_is_encoded_as_ever() {
    let (name, agent, token, by) =
        (name(), agent(), Token::new(1 << 60), AgentName::new("operator").unwrap());
    let (reason, heir) = ("maintenance".to_owned(), Some(agent.clone()));
    let (ttl, metadata) = (Duration::new(LARGE, 1), Bytes::from_static(b"pid 7"));
    let all = [
        ChangeKind::Granted { name: name.clone(), agent: agent.clone(), token, ttl, metadata },
        ChangeKind::Ended { name: name.clone(), agent: agent.clone(), token, how: EndKind::Expired },
        ChangeKind::Revoked { name: name.clone(), agent: agent.clone(), token, by, reason, heir },
        ChangeKind::Queued { name: name.clone(), agent: agent.clone() },
        ChangeKind::Left { name: name.clone(), agent: agent.clone() },
        ChangeKind::Closed { name: name.clone(), agent, token, delay: ttl },
        ChangeKind::Opened { name: name.clone() },
        ChangeKind::Present { held: vec![(name, holder())], complete: false, lagged: true },
    ];
    let goldens = all.clone().map(|kind| {
        let file = match &kind {
            ChangeKind::Granted { .. } => "granted",
            ChangeKind::Ended { .. } => "ended",
            ChangeKind::Revoked { .. } => "revoked",
            ChangeKind::Queued { .. } => "queued",
            ChangeKind::Left { .. } => "left",
            ChangeKind::Closed { .. } => "closed",
            ChangeKind::Opened { .. } => "opened",
            ChangeKind::Present { .. } => "present",
        };
        golden::check(&format!("change/kind_{file}"), &kind)
    });
    golden::covers_variants::<ChangeKind>(&goldens);
    golden::withstands::<ChangeKind>(&goldens);
    let changes = all.map(|kind| Change { index: LARGE, kind }).to_vec();
    golden::withstands::<Changes>(&[golden::check("change/changes", &Changes { changes, upto: LARGE })]);
}

#[test]
fn every_end_is_encoded_as_ever() {
    let revoked =
        EndKind::Revoked { by: AgentName::new("operator").unwrap(), reason: "maintenance".to_owned() };
    let all = [EndKind::Released, EndKind::GivenUp, EndKind::Expired, EndKind::Transferred, revoked];
    let goldens = all.map(|end| {
        let file = match &end {
            EndKind::Released => "released",
            EndKind::GivenUp => "given_up",
            EndKind::Expired => "expired",
            EndKind::Transferred => "transferred",
            EndKind::Revoked { .. } => "revoked",
        };
        golden::check(&format!("change/end_{file}"), &end)
    });
    golden::covers_variants::<EndKind>(&goldens);
    golden::withstands::<EndKind>(&goldens);
}

#[test]
fn filters_are_encoded_as_ever() {
    let all = [Filter::Name(name()), Filter::Prefix("orders".to_owned())];
    let goldens = all.map(|filter| {
        let file = match &filter {
            Filter::Name(_) => "name",
            Filter::Prefix(_) => "prefix",
        };
        golden::check(&format!("change/filter_{file}"), &filter)
    });
    golden::covers_variants::<Filter>(&goldens);
    golden::withstands::<Filter>(&goldens);
}

/// What is shown of a holder is what was sent of it.
#[test]
fn a_holder_survives_the_way() {
    let info = holder();
    assert_eq!(HolderInfo::from(HeldBy::from(info.clone())), info);
}
