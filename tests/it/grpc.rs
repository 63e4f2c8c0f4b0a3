//! `OrderService` from outside: who is let in, what a call may cost and take, and what a caller is told.

mod admission;
mod batch;
mod callers;
mod deadlines;
mod get_order;
mod unread;
mod watch;
