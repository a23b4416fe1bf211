"""The page: drag the keypoints of a picture and watch what the models make of it (`autolink serve`)."""
