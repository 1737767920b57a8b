//! Settings that are texts with a form of their own.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// Reads a text by `parse`. In a list the error then has the place of its item, which it has not by `try_from`.
///
/// # Errors
/// Those of `parse`, or that a text was `expected`.
pub(super) fn deserialize<'de, D, T, E>(
    from: D,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    E: fmt::Display,
{
    struct Text<F>(&'static str, F);

    impl<T, E: fmt::Display, F: FnOnce(&str) -> Result<T, E>> Visitor<'_> for Text<F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<D: Error>(self, text: &str) -> Result<T, D> {
            (self.1)(text).map_err(D::custom)
        }
    }

    from.deserialize_str(Text(expected, parse))
}

/// Reads a table as `F`, and makes a `T` of it. As in [`deserialize()`], an error has the place of its table.
///
/// # Errors
/// Those of either step.
pub(super) fn deserialize_table<'de, D, F, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    F: Deserialize<'de>,
    T: TryFrom<F>,
    T::Error: fmt::Display,
{
    struct Table<F, T>(PhantomData<(F, T)>);

    impl<'de, F, T> Visitor<'de> for Table<F, T>
    where
        F: Deserialize<'de>,
        T: TryFrom<F>,
        T::Error: fmt::Display,
    {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            let table = F::deserialize(MapAccessDeserializer::new(map))?;
            table.try_into().map_err(A::Error::custom)
        }
    }

    from.deserialize_map(Table(PhantomData))
}
