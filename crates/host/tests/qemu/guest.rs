//! A guest of forty bytes: it greets on the console, waits for its power button and powers off.

/// What it says.
pub const HELLO: &str = "hello from the guest\n";

/// Where the guest is loaded.
const BASE: u32 = 0x10_0000;
/// The microvm's event device: a bit field of what happened, of which bit 1 is the power button.
const EVENTS: u32 = 0xfea0_0000;
/// Its sleep control register; this value is "enter S5", power-off.
const SLEEP_CONTROL: u32 = EVENTS + 0x200;
const ENTER_S5: u8 = 0x34;

/// A 32-bit ELF file with one segment of code and the note by which a PVH loader finds its entry.
pub fn guest() -> Vec<u8> {
    const HEADERS: u32 = 52 + 2 * 32;
    const NOTE: u32 = 12 + 4 + 4;
    let entry = BASE + HEADERS + NOTE;
    let mut code = Vec::new();
    let text_at = entry + 41;
    code.push(0xbe); // mov esi, text
    code.extend(text_at.to_le_bytes());
    code.extend([0x66, 0xba, 0xf8, 0x03]); // mov dx, COM1
    code.extend([0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8]); // next: lodsb; test al, al; jz wait; out dx, al; jmp next
    code.push(0xa1); // wait: mov eax, [EVENTS]
    code.extend(EVENTS.to_le_bytes());
    code.extend([0xa8, 0x02, 0x74, 0xf7]); // test al, 2; jz wait
    code.extend([0xc6, 0x05]); // mov byte [SLEEP_CONTROL], ENTER_S5
    code.extend(SLEEP_CONTROL.to_le_bytes());
    code.push(ENTER_S5);
    code.extend([0xf4, 0xeb, 0xfd]); // end: hlt; jmp end
    code.resize(41, 0x90);
    code.extend(HELLO.bytes());
    code.push(0);

    let half = |value: u16| value.to_le_bytes().to_vec();
    let word = |value: u32| value.to_le_bytes().to_vec();
    let size = HEADERS + NOTE + u32::try_from(code.len()).unwrap();
    let mut elf: Vec<u8> = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([half(2), half(3), word(1), word(entry), word(52), word(0), word(0)].concat());
    elf.extend([half(52), half(32), half(2), half(0), half(0), half(0)].concat());
    // Kind, offset, addresses, sizes, flags, alignment: the whole file is loaded; the note lies behind the headers.
    elf.extend([1, 0, BASE, BASE, size, size, 7, 0x1000].map(u32::to_le_bytes).concat());
    elf.extend([4, HEADERS, BASE + HEADERS, BASE + HEADERS, NOTE, NOTE, 4, 4].map(u32::to_le_bytes).concat());
    // Name length, value length, kind 18 (the 32-bit entry), name, value.
    elf.extend([word(4), word(4), word(18), b"Xen\0".to_vec(), word(entry)].concat());
    elf.extend(code);
    elf
}
