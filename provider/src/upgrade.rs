//! What machines of one segment agree on before one of them upgrades itself.

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "for the routes and the role that ask and answer")
)]
pub(crate) mod turn;
