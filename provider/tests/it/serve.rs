//! `plasmd serve` as clients and operators meet it.

mod config;
mod fresh;
mod guide;
mod life;
mod manifest;
mod requests;
