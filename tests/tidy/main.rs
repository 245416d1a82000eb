//! What review would forget: rules about the text of the repository that no compiler checks.
//!
//! | file | what it asks |
//! | --- | --- |
//! | `floors.rs` | does anybody import from a higher floor? |
//! | `words.rs` | does a word stand where it has no place? |
//! | `docs.rs` | do the documents name what exists? |
//! | `source.rs` | the reading itself |

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests")]

mod docs;
mod floors;
mod source;
mod words;
