"""Keep stores at URLs: whole objects, a local cache of them, and a lease for the writer."""
