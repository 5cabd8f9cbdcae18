//! Bootable images: kernel + netstack + one service.
#![cfg_attr(not(test), no_std)]
