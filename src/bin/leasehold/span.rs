//! Spans of time as people write them: `10s`, `500ms`, `2m`, `1h`.

use std::time::Duration;

/// Reads a span: a whole number and a unit.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let how = "write a whole number and a unit, as in 500ms, 10s, 2m or 1h";
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a span of time; {how}"))?;
    let in_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if number == 0 => 1,
        _ => return Err(format!("{text:?} has no unit that is known; {how}")),
    };
    number.checked_mul(in_ms).map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long; {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let ms = |text| parse(text).unwrap().as_millis();
        assert_eq!(
            (ms("500ms"), ms("10s"), ms("2m"), ms("1h"), ms("0")),
            (500, 10_000, 120_000, 3_600_000, 0)
        );
        for wrong in
            ["", "10", "s", "-1s", "1.5s", "10 s", "10d", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
