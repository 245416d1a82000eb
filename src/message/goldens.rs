//! Golden files of every question and answer but the status report's, and what hostile bytes do.

use bytes::Bytes;

use super::*;
use crate::{
    golden,
    holder::{ClosureInfo, WaiterInfo},
    limits,
    mode::Mode,
    table::Holder,
};

fn id(n: u8) -> LeaseId {
    LeaseId::from_bits(u128::from_be_bytes([n; 16]))
}

fn name() -> Name {
    Name::new("orders.db").unwrap()
}

fn holder() -> Holder {
    Holder { agent: AgentName::new("agent-a").unwrap(), node: NodeId::from_bits(0x0102_0304_0506_0708) }
}

/// Needs more than 32 bits: a field that was narrowed would not read it.
const LARGE: u64 = 1 << 40;

fn token() -> Token {
    Token::new(1 << 60)
}

fn acquire() -> Acquire {
    Acquire {
        name: name(),
        lease_id: id(0x11),
        agent: holder(),
        ttl_ms: LARGE,
        wait: true,
        metadata: Bytes::from_static(b"pid 7"),
        seen: LARGE,
        mode: Mode::Permits { of: 1 << 17 },
        lock_delay_ms: LARGE,
    }
}

fn held_by() -> HeldBy {
    HeldBy {
        holder: holder(),
        token: token(),
        since_unix_ms: 1_700_000_000_000,
        ttl_ms: LARGE,
        metadata: Bytes::from_static(b"pid 7"),
        revoked: true,
        waiters: LARGE,
        mode: Mode::Shared,
        holders: LARGE,
    }
}

fn report() -> NameReport {
    let Holder { agent, node } = holder();
    let closed = ClosureInfo { agent: agent.clone(), token: token(), delay: Duration::new(LARGE, 1) };
    let (mode, ttl) = (Mode::Shared, Duration::new(LARGE, 1));
    NameReport {
        name: name(),
        holders: vec![held_by().into()],
        holders_in_all: LARGE,
        closed: Some(closed),
        waiters: vec![WaiterInfo { position: LARGE, agent, node, mode, ttl }],
        waiters_in_all: LARGE,
    }
}

fn revocation() -> Revocation {
    let heir = Some(AgentName::new("agent-b").unwrap());
    Revocation { by: AgentName::new("operator").unwrap(), reason: "maintenance".into(), heir }
}

/// The files of one enum: of these values, under the names that `name` gives them.
fn check_all<T>(prefix: &str, all: Vec<T>, name: impl Fn(&T) -> &'static str) -> Vec<Vec<u8>>
where
    T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    all.iter().map(|value| golden::check(&format!("message/{prefix}_{}", name(value)), value)).collect()
}

#[test]
fn every_request_is_encoded_as_ever() {
    let all = vec![
        Request::Acquire(acquire()),
        Request::Release { lease_id: id(0x11) },
        Request::Cancel { lease_id: id(0x11) },
        Request::Renew { leases: vec![id(0x11), id(0x22)] },
        Request::Await { lease_id: id(0x11), at_most_ms: LARGE },
        Request::Holder { name: name() },
        Request::Leases { prefix: "orders".to_owned(), after: Some((name(), token())), limit: 1 << 20 },
        Request::Status,
        Request::Position,
        Request::ReadIndex,
        Request::Transfer { lease_id: id(0x11), to: TransferTo::Agent(holder().agent), attempt: LARGE },
        Request::Revoke {
            name: name(),
            token: token(),
            by: revocation().by,
            reason: "maintenance".to_owned(),
            heir: revocation().heir,
        },
        Request::Inspect { name: name() },
        Request::Watch { filter: Filter::Prefix("orders".to_owned()), after: Some(LARGE), at_most_ms: LARGE },
        Request::Join {
            node: holder().node,
            agent: holder().agent,
            address: "agent-a.example:7101".to_owned(),
            observer: true,
            timing: Timing::wan(),
        },
        Request::Depart { node: holder().node },
        Request::Leave,
        Request::Members,
        Request::Promote { node: holder().node },
        Request::Remove { node: holder().node },
    ];
    let goldens = check_all("request", all, |request| match request {
        Request::Acquire(_) => "acquire",
        Request::Release { .. } => "release",
        Request::Cancel { .. } => "cancel",
        Request::Renew { .. } => "renew",
        Request::Await { .. } => "await",
        Request::Holder { .. } => "holder",
        Request::Leases { .. } => "leases",
        Request::Status => "status",
        Request::Position => "position",
        Request::ReadIndex => "read_index",
        Request::Watch { .. } => "watch",
        Request::Transfer { .. } => "transfer",
        Request::Revoke { .. } => "revoke",
        Request::Inspect { .. } => "inspect",
        Request::Join { .. } => "join",
        Request::Depart { .. } => "depart",
        Request::Leave => "leave",
        Request::Members => "members",
        Request::Promote { .. } => "promote",
        Request::Remove { .. } => "remove",
    });
    golden::covers_variants::<Request>(&goldens);
    golden::withstands::<Request>(&goldens);
}

#[test]
fn a_question_with_its_time_is_encoded_as_ever() {
    let asking = Asking { request: Request::Acquire(acquire()), within: Duration::new(LARGE, 1_000_000) };
    let golden = golden::check("message/asking", &asking);
    golden::withstands::<Asking>(&[golden]);
}

#[test]
fn every_response_is_encoded_as_ever() {
    let all = vec![
        Response::Outcome(Outcome::Granted { token: token() }),
        Response::Renewed(vec![Verdict::Extended, Verdict::Gone(Gone::Unknown)]),
        Response::Standing(Standing::Waiting { position: LARGE }),
        Response::Holder(Some(held_by())),
        Response::Leases { leases: vec![(name(), held_by())], more: true },
        Response::Status(Box::new(status_golden::report())),
        Response::ReadIndex(LARGE),
        Response::Failed(Failure::Unknown("the leader did not answer in time".to_owned())),
        Response::Changes(Changes { changes: vec![], upto: LARGE }),
        Response::Inspected(Box::new(report())),
        Response::Done,
        Response::Members(vec![MemberReport {
            node: holder().node,
            agent: "agent-a".to_owned(),
            address: "agent-a.example:7101".to_owned(),
            role: MemberRole::Observer,
            may_vote: true,
            heard_ago: Some(Duration::new(LARGE, 1)),
            log_index: LARGE,
            behind: LARGE,
        }]),
    ];
    let goldens = check_all("response", all, |response| match response {
        Response::Outcome(_) => "outcome",
        Response::Renewed(_) => "renewed",
        Response::Standing(_) => "standing",
        Response::Holder(_) => "holder",
        Response::Leases { .. } => "leases",
        Response::Status(_) => "status",
        Response::ReadIndex(_) => "read_index",
        Response::Failed(_) => "failed",
        Response::Changes(_) => "changes",
        Response::Inspected(_) => "inspected",
        Response::Done => "done",
        Response::Members(_) => "members",
    });
    golden::covers_variants::<Response>(&goldens);
    golden::withstands::<Response>(&goldens);
}

#[test]
fn every_verdict_is_encoded_as_ever() {
    let goldens =
        check_all(
            "verdict",
            vec![Verdict::Extended, Verdict::Gone(Gone::Expiring)],
            |verdict| match verdict {
                Verdict::Extended => "extended",
                Verdict::Gone(_) => "gone",
            },
        );
    golden::covers_variants::<Verdict>(&goldens);
    golden::withstands::<Verdict>(&goldens);

    let all = vec![Gone::Ended(Ending::Expired), Gone::Revoked(revocation()), Gone::Expiring, Gone::Unknown];
    let goldens = check_all("gone", all, |gone| match gone {
        Gone::Ended(_) => "ended",
        Gone::Revoked(_) => "revoked",
        Gone::Expiring => "expiring",
        Gone::Unknown => "unknown",
    });
    golden::covers_variants::<Gone>(&goldens);
    golden::withstands::<Gone>(&goldens);
}

#[test]
fn every_standing_is_encoded_as_ever() {
    let all = vec![
        Standing::Holding(token()),
        Standing::Waiting { position: LARGE },
        Standing::Ended(Ending::Cancelled),
        Standing::Unknown,
    ];
    let goldens = check_all("standing", all, |standing| match standing {
        Standing::Holding(_) => "holding",
        Standing::Waiting { .. } => "waiting",
        Standing::Ended(_) => "ended",
        Standing::Unknown => "unknown",
    });
    golden::covers_variants::<Standing>(&goldens);
    golden::withstands::<Standing>(&goldens);
}

#[test]
fn every_failure_is_encoded_as_ever() {
    let all = vec![
        Failure::NotLeader { leader: Some((NodeId::from_bits(2), "127.0.0.1:7102".to_owned())) },
        Failure::Unavailable("no leader".to_owned()),
        Failure::Unknown("no answer".to_owned()),
        Failure::Refused("too many".to_owned()),
        Failure::Stopped("the disk is full".to_owned()),
    ];
    let goldens = check_all("failure", all, |failure| match failure {
        Failure::NotLeader { .. } => "not_leader",
        Failure::Unavailable(_) => "unavailable",
        Failure::Unknown(_) => "unknown",
        Failure::Refused(_) => "refused",
        Failure::Stopped(_) => "stopped",
    });
    golden::covers_variants::<Failure>(&goldens);
    golden::withstands::<Failure>(&goldens);
}

/// The largest questions that this program asks are taken.
#[test]
fn the_largest_questions_fit_their_bound() {
    let leases = vec![LeaseId::from_bits(u128::MAX); limits::RENEW_MAX];
    let largest = Acquire {
        name: Name::new("n".repeat(limits::NAME_BYTES_MAX)).unwrap(),
        lease_id: LeaseId::from_bits(u128::MAX),
        agent: Holder {
            agent: AgentName::new("a".repeat(limits::AGENT_NAME_BYTES_MAX)).unwrap(),
            node: NodeId::from_bits(u64::MAX),
        },
        ttl_ms: u64::MAX,
        wait: true,
        metadata: vec![0xff; limits::METADATA_BYTES_MAX].into(),
        seen: u64::MAX,
        mode: Mode::Permits { of: u32::MAX },
        lock_delay_ms: u64::MAX,
    };
    for request in [Request::Renew { leases }, Request::Acquire(largest)] {
        let bytes = crate::codec::encode(&Asking { request, within: Duration::MAX });
        assert!(bytes.len() <= limits::QUESTION_BYTES_MAX, "{} bytes", bytes.len());
    }
}
