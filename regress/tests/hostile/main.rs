//! Clients and owners of repositories who mean harm.

mod commands;
mod descriptors;
mod owners;
mod packs;
mod repositories;
mod requests;
mod sessions;
mod slow_clients;
mod socket;
mod unix_floods;
