//! git://: clients of TCP that nobody knows.

mod flood;
mod input;
mod privileges;
mod requests;
mod serving;
mod ways;
