//! `plasmd serve` as clients and operators meet it.

mod config;
mod conformance;
mod firmware;
mod fresh;
mod guide;
mod life;
mod manifest;
mod redbot;
mod requests;
