//! Fetches and clones: what is served, to which clients, whose turn it is and what it may cost.

mod damage;
mod gotsh_relay;
mod large_objects;
mod many_files;
mod many_packs;
mod memory;
mod negotiation;
mod other_clients;
mod pack_queue;
mod pack_turns;
mod partial_repositories;
mod shapes;
mod through_sshd;
