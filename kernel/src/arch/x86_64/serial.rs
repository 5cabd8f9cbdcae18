//! The first serial interface (a 16550), polled.

use super::port::serial_port;

const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;

const TRANSMITTER_EMPTY: u8 = 1 << 5;
const FIFO: usize = 16;

/// Sets 115200 baud, 8N1, FIFOs on, no interrupts.
pub fn init() {
    serial_port(INTERRUPT_ENABLE).write(0);
    serial_port(LINE_CONTROL).write(0x80);
    serial_port(DATA).write(1);
    serial_port(INTERRUPT_ENABLE).write(0);
    serial_port(LINE_CONTROL).write(0x03);
    serial_port(FIFO_CONTROL).write(0x07);
    serial_port(MODEM_CONTROL).write(0x03);
}

/// Writes bytes, waiting for the FIFO to drain in between, but not for ever: where nothing drains
/// it, output is lost rather than the service.
pub fn write(bytes: &[u8]) {
    for chunk in bytes.chunks(FIFO) {
        let mut patience = 100_000u32;
        while serial_port(LINE_STATUS).read() & TRANSMITTER_EMPTY == 0 && patience > 0 {
            patience -= 1;
            core::hint::spin_loop();
        }
        for &byte in chunk {
            serial_port(DATA).write(byte);
        }
    }
}
