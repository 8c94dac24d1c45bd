//! The processes: what each holds and may do, how they die, and what is left.

mod calls;
mod commit_refs;
mod deaths;
mod escapes;
mod memory_limits;
mod privileges;
mod push_deaths;
mod push_privileges;
