//! How the types that hold checked bytes go through a message.

/// Serialisation of a type as a byte string, which the type's own parser checks when it comes back:
/// `as_checked_bytes!(Type, Type::parse, "what it is")`. The type has `as_bytes`.
#[macro_export]
macro_rules! as_checked_bytes {
    ($type:ty, $parse:path, $what:literal) => {
        impl ::serde::Serialize for $type {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(self.as_bytes())
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $type {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Checked;
                impl<'de> ::serde::de::Visitor<'de> for Checked {
                    type Value = $type;
                    fn expecting(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_bytes<E: ::serde::de::Error>(self, bytes: &[u8]) -> Result<$type, E> {
                        $parse(bytes).map_err(E::custom)
                    }
                }
                deserializer.deserialize_bytes(Checked)
            }
        }
    };
}
