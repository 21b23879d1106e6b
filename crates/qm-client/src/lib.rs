//! What an application links to talk to its queue manager: send, receive, peek
#![forbid(unsafe_code)]
