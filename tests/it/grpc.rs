//! `OrderService` from outside: authentication, the cost and limits of a call, and what a caller gets.

mod admission;
mod batch;
mod callers;
mod deadlines;
mod get_order;
mod hits;
mod unread;
mod watch;
