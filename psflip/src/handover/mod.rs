//! The hand-over between two generations: what they tell each other, and the two ends of the conversation.
//! `docs/handover.md` tells it step by step, with what happens if either side dies there.

pub mod message;
pub mod predecessor;
pub mod successor;

pub use message::{Hello, Message, ToPredecessor, ToSuccessor};
