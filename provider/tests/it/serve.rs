//! `plasmd serve` as clients and operators meet it.

mod asking;
mod config;
mod conformance;
mod ending;
mod files;
mod files_sent;
mod firmware;
mod fresh;
mod freshness;
mod guide;
mod hostile;
mod life;
mod machines;
mod manifest;
mod operations;
mod redbot;
mod rekey;
mod requests;
mod sandbox;
mod swarm;
mod systemd;
mod tls;
mod upgrade;
mod ways;
