//! gotd.conf and what is installed: names, rules, limits, and a new configuration for a running
//! daemon.

mod dependencies;
mod directives;
mod hardening;
mod install;
mod limits;
mod limits_table;
mod release;
mod reload;
mod reload_listeners;
mod sshd_lines;
