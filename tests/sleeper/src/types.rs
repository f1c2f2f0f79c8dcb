//! The sleep types of emulators, whose tables have them as plain numbers. (The root task evaluates AML.)

/// Of `\\_S3` in one of these tables.
pub fn of_suspend(tables: &[alloc::vec::Vec<u8>]) -> Option<[u8; 2]> {
    tables.iter().find_map(|aml| sleep_types(aml, b"_S3_"))
}

/// `Name (_Sx_, Package () {a, b, ...})` in AML (20.2.5.1, 20.2.5.4): the first two numbers.
fn sleep_types(aml: &[u8], name: &[u8; 4]) -> Option<[u8; 2]> {
    const NAME: u8 = 0x08;
    const ROOT: u8 = b'\\';
    const PACKAGE: u8 = 0x12;
    let places = aml.windows(4).enumerate().filter(|(_, part)| part == name);
    places.map(|(at, _)| at).find_map(|at| {
        let before = aml.get(..at)?;
        let is_name = before.ends_with(&[NAME]) || before.ends_with(&[NAME, ROOT]);
        let [PACKAGE, rest @ ..] = aml.get(at + 4..)? else { return None };
        // The length's first byte says how many follow it; then comes the number of elements.
        let follow = usize::from(rest.first()? >> 6);
        let mut rest = rest.get(2 + follow..)?;
        let first = number(&mut rest)?;
        // A package of one number has both types in it.
        let second = number(&mut rest).unwrap_or(first);
        is_name.then_some([first, second])
    })
}

/// A number of AML (20.2.3) that is a sleep type.
fn number(aml: &mut &[u8]) -> Option<u8> {
    let (value, rest) = match **aml {
        [0x00, ref rest @ ..] => (0, rest),
        [0x01, ref rest @ ..] => (1, rest),
        [0x0a, value, ref rest @ ..]
        | [0x0b, value, _, ref rest @ ..]
        | [0x0c, value, _, _, _, ref rest @ ..] => (value, rest),
        _ => return None,
    };
    *aml = rest;
    (value <= 7).then_some(value)
}
