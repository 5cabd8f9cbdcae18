//! Sans-IO TCP/IP, sessions, migration and clustering; knows nothing of hardware.
#![cfg_attr(not(test), no_std)]
