//! `Access`: does a write guard live, end and tell as it says, whatever grants it?
//!
//! | file | what it asks |
//! | --- | --- |
//! | `every_kind.rs` | the same of `Local`, `Raft` and `Custom`, at real time |
//! | `belief.rs` | until when is a guard believed in, whatever the provider does? |
//! | `ends.rs` | how does it end by will? |
//! | `shelf.rs` | the provider of these two, which does everything that can go wrong |

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test: it looks from outside, at tokio's time, and panics are how it fails"
)]

mod belief;
mod ends;
mod every_kind;
mod shelf;
