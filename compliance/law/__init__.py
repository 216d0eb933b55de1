"""Law as data: packs, regions, and the decision whether one thing may leave for one recipient."""
