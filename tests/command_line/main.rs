//! The command line, as processes of its own: does it do what its help says, also when processes are killed, stopped
//! and badly asked?

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test: it looks from outside, at real time, and panics are how it fails"
)]

mod bad_input;
mod busy;
mod by_hand;
mod cluster;
mod config;
mod danger;
mod disk;
mod dropped_packets;
mod family;
mod guarding;
mod harness;
mod late_guard;
mod manual;
#[path = "../common/namespaces.rs"]
mod namespaces;
mod run;
mod solo;
mod streams;
mod terminal;
mod tls;
mod watching;

use harness::{Process, leasehold};

/// The demonstration is a test of its own accord: it ends with 0 only if all that it tells was so.
#[test]
fn the_demo_shows_what_it_promises() {
    let demo = Process::start(&mut leasehold(&["demo"]));
    let ended = demo.ended();
    assert_eq!(ended.code, 0, "{ended:?}");
    let at =
        |what: &str| ended.out.find(what).unwrap_or_else(|| panic!("{what:?} is missing in {}", ended.out));
    let story = [
        "anna     holds the lease",
        "network  anna is cut off",
        "has lost it, by her own clock",
        "bert     holds the lease",
    ];
    let places = story.map(at);
    assert!(places.is_sorted(), "{}", ended.out);
    at("is stale");
    at("is connected again");
}
