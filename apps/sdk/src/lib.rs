//! Write a service whose connections can move: Service, Session, the drive loop, the node agent.
#![cfg_attr(not(test), no_std)]
