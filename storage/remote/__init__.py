"""Keep stores in object stores: whole objects, a local cache, a lease for the writer."""
