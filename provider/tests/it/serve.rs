//! `plasmd serve` as clients and operators meet it.

mod guide;
mod life;
mod manifest;
mod requests;
