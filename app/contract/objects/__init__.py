"""Object storage as all processes use it: keys of objects, folders and buckets, faults."""
