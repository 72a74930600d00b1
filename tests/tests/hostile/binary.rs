//! As much of WebAssembly's binary format as it takes to split modules, and to write what no toolchain emits.

/// The headers of core modules and components.
pub const CORE: &[u8] = b"\0asm\x01\0\0\0";
pub const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// A number in LEB128.
pub fn leb(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let [low, ..] = (number & 0x7f).to_le_bytes();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A section with this id and these parts.
pub fn section(id: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len() as u64).sum();
    [&[id], &leb(length)[..], &parts.concat()].concat()
}

/// A section with a vector of `count` items.
pub fn row(id: u8, count: u64, items: &[u8]) -> Vec<u8> {
    section(id, &[&leb(count), items])
}

/// A name, with its length.
pub fn name(bytes: &[u8]) -> Vec<u8> {
    [&leb(bytes.len() as u64), bytes].concat()
}

/// A core module with these sections.
pub fn core(sections: &[Vec<u8>]) -> Vec<u8> {
    [CORE, &sections.concat()].concat()
}

/// The positions of a module's outermost sections: the start of each, of its content, and its end.
pub fn sections(module: &[u8]) -> Vec<[usize; 3]> {
    let mut found = Vec::new();
    let mut at = CORE.len();
    while at < module.len() {
        let (mut length, mut content) = (0, at + 1);
        for shift in (0..32).step_by(7) {
            let Some(byte) = module.get(content) else { return found };
            length |= usize::from(byte & 0x7f) << shift;
            content += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let end = (content + length).min(module.len());
        found.push([at, content, end]);
        at = end;
    }
    found
}
