//! Golden files of the founding's forms, the numbers of the methods, and what hostile bytes do.

use std::collections::BTreeMap;

use super::founding::{Plan, Question, Reply};
use crate::{
    golden,
    id::{ClusterId, NodeId},
    message::{ASK, FOUND, LEAD, code},
    raft::{self, Member},
};

fn cluster() -> ClusterId {
    ClusterId::from_bits(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10)
}

fn founders() -> Vec<String> {
    vec!["127.0.0.1:7101".to_owned(), "127.0.0.1:7102".to_owned()]
}

fn plan() -> Plan {
    let member = |n: u64| {
        (
            NodeId::from_bits(n),
            Member { agent: format!("agent-{n}"), addr: format!("127.0.0.1:710{n}"), observer: n == 2 },
        )
    };
    Plan {
        cluster: cluster(),
        unix_ms: 1_700_000_000_000,
        former: NodeId::from_bits(1),
        members: BTreeMap::from([member(1), member(2)]),
    }
}

#[test]
fn a_plan_is_encoded_as_ever() {
    let golden = golden::check("founding/plan", &plan());
    golden::withstands::<Plan>(&[golden]);
}

#[test]
fn every_question_is_encoded_as_ever() {
    let all = [
        Question::Greet { founders: founders(), node: NodeId::from_bits(0x0102_0304_0506_0708) },
        Question::Promise(plan()),
    ];
    let goldens = all.map(|question| {
        let name = match &question {
            Question::Greet { .. } => "greet",
            Question::Promise(_) => "promise",
        };
        golden::check(&format!("founding/question_{name}"), &question)
    });
    golden::covers_variants::<Question>(&goldens);
    golden::withstands::<Question>(&goldens);
}

#[test]
fn every_reply_is_encoded_as_ever() {
    let all = [
        Reply::Greeting {
            node: NodeId::from_bits(2),
            agent: "agent-2".to_owned(),
            promised: Some(cluster()),
            with_you: true,
        },
        Reply::OtherList { founders: founders() },
        Reply::Promised,
        Reply::PromisedElsewhere { cluster: cluster() },
        Reply::CannotPromise { detail: "the disk is full".to_owned() },
        Reply::NotInPlan { node: NodeId::from_bits(0x0123_4567_89ab_cdef) },
    ];
    let goldens = all.map(|reply| {
        let name = match &reply {
            Reply::Greeting { .. } => "greeting",
            Reply::OtherList { .. } => "other_list",
            Reply::Promised => "promised",
            Reply::PromisedElsewhere { .. } => "promised_elsewhere",
            Reply::CannotPromise { .. } => "cannot_promise",
            Reply::NotInPlan { .. } => "not_in_plan",
        };
        golden::check(&format!("founding/reply_{name}"), &reply)
    });
    golden::covers_variants::<Reply>(&goldens);
    golden::withstands::<Reply>(&goldens);
}

#[test]
fn methods_and_codes_keep_their_numbers() {
    use raft::network::{APPEND, PRE_VOTE, SNAPSHOT, TRANSFER, VOTE};
    let methods = [APPEND, VOTE, PRE_VOTE, TRANSFER, SNAPSHOT, LEAD, ASK, FOUND];
    assert_eq!(methods.map(|method| method.0), [1, 2, 3, 4, 5, 16, 17, 18]);
    let codes =
        [code::MALFORMED, code::NO_SUCH_METHOD, code::NOT_PERMITTED, code::NOT_SERVING, code::CONSENSUS];
    assert_eq!(codes, [1, 2, 3, 4, 5]);
}
