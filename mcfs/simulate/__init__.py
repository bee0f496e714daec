"""The sending rule and the readers' rules in virtual time, from one reader to ten thousand (`mcfs simulate`)."""
