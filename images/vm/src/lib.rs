//! Bootable images: kernel + netstack + one service.
